"""Front doors: every source of a model gives the same Program."""

from effc.ir.trace.door import open_model

__all__ = ["open_model"]

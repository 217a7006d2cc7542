"""Ways back: a Program in another ecosystem's form."""

from effc.ir.export.pt2 import save_program

__all__ = ["save_program"]

"""Calibration and evaluation data in every form the command line takes."""

from effc.ir.data.batches import Batch, Data
from effc.ir.data.door import open_data

__all__ = ["Batch", "Data", "open_data"]

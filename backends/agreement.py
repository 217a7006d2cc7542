"""How close two arrays are that ought to be equal."""

import math

import numpy as np
import torch

from effc.passes.instruments import sqnr


def agreement(expected: np.ndarray, found: np.ndarray) -> float:
    """Signal to noise of what was found, in dB, over the elements that are finite.

    Infinite where nothing differs; minus infinite where NaN or infinite elements do.
    """
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], found[~finite], equal_nan=True):
        return -math.inf
    if not np.isfinite(found[finite]).all():
        return -math.inf
    return sqnr(torch.from_numpy(expected[finite]), torch.from_numpy(found[finite]))

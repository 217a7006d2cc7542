"""Scikit-learn's handwritten digits, enlarged and split once and for all."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch.nn import functional

from zoo.networks import SIDE

TEST_SHARE = 0.3
SEED = 0
BRIGHTEST = 16.0


@dataclass(frozen=True)
class Images:
    """Digits and what they show.

    Attributes:
        x: float32 [count, 1, 16, 16], -1 for paper, 1 for the darkest ink.
        labels: int64 [count], 0 to 9.
    """

    x: NDArray[np.float32]
    labels: NDArray[np.int64]


def load() -> tuple[Images, Images]:
    """The training split and the test split; every digit has the same share in both."""
    pixels, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(pixels.astype(np.float32)).view(-1, 1, 8, 8)
    large = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    x = (large / (BRIGHTEST / 2) - 1).numpy()
    train, test = train_test_split(
        np.arange(len(x)), test_size=TEST_SHARE, random_state=SEED, stratify=labels
    )
    labels = labels.astype(np.int64)
    return Images(x[train], labels[train]), Images(x[test], labels[test])

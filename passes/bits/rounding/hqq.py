"""HQQ: zero points that make the error small where it is not large.

H. Badri, A. Shaji, "Half-Quadratic Quantization", 2023: minimise |W - Q(W)|_p, p < 1, over the zero
points of asymmetric codes, alternately (1) an outlier part E of the error by generalised soft
thresholding, sign(x) max(0, |x| - |x|^(p - 1) / beta), and (2) the zero points as the mean of
`codes - (W - E) / scale`; beta grows by kappa. The zero points with the least error are kept. Needs
no data.
"""

from dataclasses import dataclass, replace

import numpy as np

from effc.passes.bits.rounding.grid import Grid, Matrix, asymmetric, split_groups

TINY = 1e-12


@dataclass(frozen=True)
class Hqq:
    """Options of the method; the defaults are the authors'.

    Attributes:
        bits: Width of a code.
        group: Columns that share a scale; 0 for all.
        norm: p.
        beta: Where the weight of the split begins.
        growth: kappa.
        iterations: At most so many.
    """

    bits: int
    group: int = 0
    norm: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    iterations: int = 20

    def rounded(self, weight: Matrix) -> Matrix:
        """Values of the grid for a weight: float64 [rows, columns]."""
        return self.grid(weight).rounded(weight)

    def grid(self, weight: Matrix) -> Grid:
        """Scales of the whole range, and the zero points found."""
        grid = asymmetric(weight, self.bits, self.group)
        split, _ = split_groups(weight, self.group)
        scale, zero, beta = grid.scale[:, :, None], grid.zero[:, :, None], self.beta
        best, least = zero, np.inf
        for _ in range(self.iterations):
            codes = np.clip(np.round(split / scale + zero), grid.low, grid.high)
            error = split - (codes - zero) * scale
            mean = float(np.abs(error).mean())
            if mean >= least:
                break
            best, least = zero, mean
            outliers = shrunk(error, beta, self.norm)
            zero = (codes - (split - outliers) / scale).mean(2, keepdims=True)
            beta *= self.growth
        return replace(grid, zero=best[:, :, 0])


def shrunk(error: Matrix, beta: float, norm: float) -> Matrix:
    """The generalised soft threshold of an error."""
    size = np.abs(error)
    return np.sign(error) * np.maximum(size - np.maximum(size, TINY) ** (norm - 1) / beta, 0)

"""AWQ: columns of large inputs are scaled up before rounding, and down again after it.

J. Lin et al., "AWQ", 2023, arXiv 2306.00978: Q(W diag(s)) diag(s)^-1 with s = (mean |x|)^alpha,
divided by the root of its largest times its smallest element, alpha from a grid by the least error
of the output. The inverse scale belongs to whatever computes the input; here it is applied to the
rounded weight, which computes the same. Departure: the error is tr(D H D^T), from second moments,
and the mean magnitude is taken as the root of the mean square.
"""

from dataclasses import dataclass

import numpy as np

from effc.passes.bits.rounding.grid import Matrix, symmetric

STEPS = 20
TINY = 1e-12


@dataclass(frozen=True)
class Awq:
    """Options of the method.

    Attributes:
        bits: Width of a code.
        group: Columns that share a scale; 0 for all.
        steps: Values of alpha from 0 to less than 1.
    """

    bits: int
    group: int = 0
    steps: int = STEPS

    def rounded(self, weight: Matrix, moment: Matrix) -> Matrix:
        """The weight that rounding leaves, scales folded back.

        Args:
            weight: float64 [rows, columns].
            moment: float64 [columns, columns], H.
        """
        found = [self._tried(weight, scale) for scale in self.scales(moment)]
        errors = [float(np.einsum("ij,ij->", (one - weight) @ moment, one - weight))
                  for one in found]  # fmt: skip
        return found[int(np.argmin(errors))]

    def scales(self, moment: Matrix) -> list[Matrix]:
        """The scales to try: [columns] each."""
        size = np.sqrt(np.maximum(np.diag(moment), 0))
        size = np.maximum(size / max(float(size.max()), TINY), 1e-4)
        powers = [size ** (step / self.steps) for step in range(self.steps)]
        return [one / np.sqrt(one.max() * one.min()) for one in powers]

    def _tried(self, weight: Matrix, scale: Matrix) -> Matrix:
        scaled = weight * scale
        return np.asarray(symmetric(scaled, self.bits, self.group).rounded(scaled) / scale)

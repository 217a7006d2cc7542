"""AdaRound: whether a weight is rounded up or down is learned from the output of its layer.

M. Nagel et al., "Up or Down? Adaptive Rounding", 2020, arXiv 2004.10568: the weight is
`scale * (floor(w / scale) + h(v))` with the rectified sigmoid h, and v minimises the error of the
output plus `strength * sum(1 - |2 h(v) - 1|^beta)`, beta falling, so that h ends at 0 or 1. As
"Gradient-based post-training quantization: challenging the status quo" (E. Yvinec et al., 2023,
arXiv 2308.07662) finds best, Adam with a warm-up without regulariser and targets from the model in
float. Departures: the error is tr(D H D^T), which is that over all data at once, with its gradient
in closed form; and where what was learned loses more than the start did, the start is kept.
"""

from dataclasses import dataclass, replace

import numpy as np

from effc.passes.bits.rounding.codecs import IntegerCodec
from effc.passes.bits.rounding.fitted import Fitted
from effc.passes.bits.rounding.grid import Matrix

LOW, HIGH = -0.1, 1.1  # ends of the rectified sigmoid
FIRST_DECAY, SECOND_DECAY, TINY = 0.9, 0.999, 1e-12


@dataclass(frozen=True)
class AdaRound:
    """Options of the method.

    Attributes:
        steps: Of Adam.
        rate: Its learning rate.
        strength: Of the regulariser, as a share of the output's error when rounding to nearest.
        warm_up: Share of the steps without it.
        first_beta: Exponent it begins with.
        last_beta: Exponent it ends with.
    """

    steps: int = 400
    rate: float = 0.02
    strength: float = 1.0
    warm_up: float = 0.2
    first_beta: float = 20.0
    last_beta: float = 2.0

    def fitted(self, weight: Matrix, moment: Matrix, start: Fitted) -> Fitted:
        """Codes next to the weight's that lose least at the output.

        Args:
            weight: float64 [rows, columns].
            moment: float64 [columns, columns], H.
            start: The weight rounded to nearest, whose scales and zero points are kept.
        """
        codec = start.codec
        if not isinstance(codec, IntegerCodec):
            return start
        scale, zero = start.spread()
        position = np.clip(weight / scale + zero, 0, (1 << codec.bits) - 1)
        floor = np.minimum(np.floor(position), (1 << codec.bits) - 2)
        share = np.clip((position - floor - LOW) / (HIGH - LOW), 0.01, 0.99)
        learned = self._learned(np.log(share / (1 - share)), floor, weight, moment, scale, zero)
        found = replace(start, codes=(floor + (learned >= 0)).astype(np.uint8))
        losses = [loss_of(one.restored() - weight, moment) for one in (found, start)]
        return found if losses[0] < losses[1] else start

    def _learned(
        self, v: Matrix, floor: Matrix, weight: Matrix, moment: Matrix, scale: Matrix, zero: Matrix
    ) -> Matrix:
        """Adam on the soft rounding."""
        mean, square = np.zeros_like(v), np.zeros_like(v)
        plain = (np.round(floor + soft(v)[0]) - zero) * scale - weight
        strength = self.strength * loss_of(plain, moment) / v.size
        for step in range(1, self.steps + 1):
            share, slope = soft(v)
            change = (floor + share - zero) * scale - weight
            gradient = 2 * (change @ moment) * scale + strength * self._pull(share, step)
            gradient *= slope / max(strength, TINY)
            mean = FIRST_DECAY * mean + (1 - FIRST_DECAY) * gradient
            square = SECOND_DECAY * square + (1 - SECOND_DECAY) * gradient**2
            first = mean / (1 - FIRST_DECAY**step)
            second = square / (1 - SECOND_DECAY**step)
            v = v - self.rate * first / (np.sqrt(second) + TINY)
        return v

    def _pull(self, share: Matrix, step: int) -> Matrix | float:
        """The slope of the regulariser with respect to h."""
        gone = step / self.steps - self.warm_up
        if gone <= 0:
            return 0.0
        progress = gone / (1 - self.warm_up)
        beta = self.last_beta + (self.first_beta - self.last_beta) * (1 - progress)
        centred = 2 * share - 1
        return np.asarray(-2 * beta * np.sign(centred) * np.abs(centred) ** (beta - 1))


def soft(v: Matrix) -> tuple[Matrix, Matrix]:
    """The rectified sigmoid and its slope."""
    sigmoid = 1 / (1 + np.exp(-np.clip(v, -30, 30)))
    wide = sigmoid * (HIGH - LOW) + LOW
    slope = np.where((wide > 0) & (wide < 1), sigmoid * (1 - sigmoid) * (HIGH - LOW), 0.0)
    return np.clip(wide, 0, 1), np.maximum(slope, 1e-3 * sigmoid * (1 - sigmoid))


def loss_of(change: Matrix, moment: Matrix) -> float:
    """tr(D H D^T)."""
    return float(np.einsum("ij,ij->", change @ moment, change))

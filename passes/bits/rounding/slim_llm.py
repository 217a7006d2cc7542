"""SliM-LLM: groups of columns take more or fewer bits by their salience.

W. Huang et al., "SliM-LLM", 2024, arXiv 2405.14917: the salience of an element is
`w^2 / [H^-1]_jj^2`, that of a group their mean. The i groups of least salience get a bit less, as
many of the largest one more, so that the mean stays; i is the one whose outputs, as distributions
over the features, are nearest to those in float (Kullback-Leibler). Departures: while i is
searched, weights are rounded to nearest, and ranges weigh errors by the diagonal of H.
"""

from dataclasses import dataclass

import numpy as np

from effc.passes.bits.rounding.codecs import BinaryCodec, Codec, IntegerCodec, fitted_range
from effc.passes.bits.rounding.fitted import group_slices
from effc.passes.bits.rounding.gptq import upper_inverse
from effc.passes.bits.rounding.grid import Matrix

MOST_TRIES = 12


@dataclass(frozen=True)
class SlimLlm:
    """Options of the method.

    Attributes:
        bits: Mean of the groups, 2 to 7; with 2, groups of least salience keep signs only.
        group: Columns of a group; 0 for all, which leaves nothing to choose.
        is_symmetric: Of codes of two and more bits.
        damping: Of H.
    """

    bits: int
    group: int
    is_symmetric: bool
    damping: float

    def codecs(self, weight: Matrix, moment: Matrix, x: Matrix) -> tuple[Codec, ...]:
        """The format of every group.

        Args:
            weight: float64 [rows, columns].
            moment: float64 [columns, columns], H.
            x: Sampled inputs, float64 [tokens, columns].
        """
        slices = group_slices(weight.shape[1], self.group)
        order = np.argsort(self.salience(weight, moment), kind="stable")
        full = [n for n in order if slices[n].stop - slices[n].start == slices[0].stop]
        rounded = {
            (number, bits): self._rounded(weight[:, slices[number]], moment, slices[number], bits)
            for number in range(len(slices))
            for bits in (self.bits - 1, self.bits, self.bits + 1)
        }
        expected = x @ weight.T
        best, least = [self.bits] * len(slices), np.inf
        for count in tries(len(full) // 2):
            bits = [self.bits] * len(slices)
            for number in full[:count]:
                bits[number] = self.bits - 1
            for number in full[len(full) - count :]:
                bits[number] = self.bits + 1
            found = np.concatenate([rounded[n, b] for n, b in enumerate(bits)], 1)
            lost = divergence(expected, x @ found.T)
            if lost < least:
                best, least = bits, lost
        return tuple(self.codec(bits) for bits in best)

    def salience(self, weight: Matrix, moment: Matrix) -> Matrix:
        """Mean salience of every group: float64 [groups]."""
        upper = upper_inverse(moment, self.damping)
        inverse = (upper**2).sum(0)
        each = (weight**2 / inverse**2).mean(0)
        slices = group_slices(weight.shape[1], self.group)
        return np.array([each[here].mean() for here in slices])

    def codec(self, bits: int) -> Codec:
        """The format of a group of so many bits."""
        return BinaryCodec() if bits == 1 else IntegerCodec(bits, self.is_symmetric)

    def _rounded(self, part: Matrix, moment: Matrix, here: slice, bits: int) -> Matrix:
        codec, worth = self.codec(bits), np.maximum(np.diag(moment)[here], 1e-30)
        scale, zero = (one[:, None] for one in fitted_range(codec, part, worth))
        return codec.restored(codec.codes(part, scale, zero), scale, zero)


def tries(most: int) -> list[int]:
    """How many groups to move: 0 to `most`, no more than `MOST_TRIES` of them."""
    if most < MOST_TRIES:
        return list(range(most + 1))
    return sorted({int(one) for one in np.linspace(0, most, MOST_TRIES).round()})


def divergence(expected: Matrix, found: Matrix) -> float:
    """Mean Kullback-Leibler divergence of softmaxed rows."""
    first, second = (log_softmax(one) for one in (expected, found))
    return float((np.exp(first) * (first - second)).sum(1).mean())


def log_softmax(scores: Matrix) -> Matrix:
    """Along rows."""
    shifted = scores - scores.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))

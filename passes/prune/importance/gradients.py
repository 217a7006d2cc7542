"""Importances from gradients: by how much the loss changes when a channel goes."""

import numpy as np

from effc.ir.coupling.groups import Group
from effc.passes.prune.importance.scoring import Scoring, Vector


class Taylor:
    """|sum of weight times gradient| per draw (Molchanov et al., 2019, arXiv 1906.10771).

    Without labels the gradients are those of likelihoods of labels drawn from the model's own
    answers, whose mean square along a change is the second derivative of the divergence.
    """

    def scores(self, study: Scoring, group: Group) -> Vector:
        """Mean over draws of the first-order change when every coupled weight goes."""
        total = np.zeros(group.size)
        for slopes in study.slopes:
            along = np.zeros(group.size)
            for site in study.products(group, "out"):
                along += study.per_atom(group, site, slopes[site.key, site.dimension])
            total += self.of(along)
        return total / len(study.slopes)

    def of(self, along: Vector) -> Vector:
        """The score of one draw."""
        return np.abs(along)


class Fisher(Taylor):
    """The same squared: the diagonal of the Fisher matrix along each channel (arXiv 1801.05787)."""

    def of(self, along: Vector) -> Vector:
        """Second order."""
        return along**2 / 2

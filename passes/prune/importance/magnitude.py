"""Importances that look at weights alone."""

import numpy as np

from effc.ir.coupling.groups import Group
from effc.ir.errors import UsageError
from effc.passes.prune.importance.scoring import Scoring, Vector


class L1:
    """Mean over the coupled weights of the sum of magnitudes (Li et al., 2017, arXiv 1608.08710).

    Both the weights that compute a channel and those that read it count.
    """

    power = 1

    def scores(self, study: Scoring, group: Group) -> Vector:
        """Sums of powers of magnitudes, to the root."""
        total = np.zeros(group.size)
        sites = study.products(group)
        for site in sites:
            powers = study.weights[site.key].abs() ** self.power
            sums = study.per_atom(group, site, study.per_position(site, powers))
            total += sums ** (1 / self.power)
        return total / len(sites)


class L2(L1):
    """The same with Euclidean lengths."""

    power = 2


class Lamp(L2):
    """Layer-adaptive magnitude (Lee et al., 2021, arXiv 2010.07611).

    A squared length over the sum of all squared lengths at least as large, which makes scores of
    different groups comparable.
    """

    def scores(self, study: Scoring, group: Group) -> Vector:
        """Each score over what is left when it is the least."""
        squares = super().scores(study, group) ** 2
        order = np.argsort(squares, kind="stable")
        tails = np.cumsum(squares[order][::-1])[::-1]
        found = np.empty(group.size)
        found[order] = squares[order] / np.maximum(tails, np.finfo(float).tiny)
        return found


class NormScale:
    """Magnitude of the scale of the norm (Liu et al., 2017, arXiv 1708.06519)."""

    def scores(self, study: Scoring, group: Group) -> Vector:
        """Mean over the norms that scale the group.

        Raises:
            UsageError: If there is none, as after `fold-norms`.
        """
        sites = [site for site in group.sites if site.role == "scale"]
        if not sites:
            raise UsageError(
                f"{group.name} has no norm whose scale could be its importance; batch norms are "
                "folded by the clean passes, take importance=l2"
            )
        scales = [
            study.per_atom(group, site, np.asarray(study.weights[site.key].abs().double()))
            for site in sites
        ]
        return np.asarray(np.mean(scales, axis=0))


class Random:
    """Random numbers: what every other importance has to beat."""

    def scores(self, study: Scoring, group: Group) -> Vector:
        """Uniform in [0, 1), by the seed and the group's name."""
        return study.ctx.rng(f"{group.name} {group.kind}").random(group.size)

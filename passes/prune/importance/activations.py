"""Importances that look at what the group carries over calibration data."""

import numpy as np
from torch import fx

from effc.ir.coupling.groups import Group, Site
from effc.ir.errors import UsageError
from effc.ir.program import value_of
from effc.passes.calibrate.statistics import is_map
from effc.passes.calibrate.value import ValueStatistics
from effc.passes.prune.importance.scoring import Scoring, Vector


class Activation:
    """Root mean square of the activations a layer reads (Minitron, 2024, arXiv 2407.14679)."""

    def scores(self, study: Scoring, group: Group) -> Vector:
        """Mean over the layers that read the group.

        Raises:
            UsageError: If no product reads it.
        """
        total, count = np.zeros(group.size), 0
        for site, known in _inputs(study, group):
            found = self.of(known, study.per_position(site, study.weights[site.key] ** 2))
            total += study.per_atom(group, site, found)
            count += 1
        if not count:
            raise UsageError(f"{group.name}: no product reads its channels; take importance=l2")
        return total / count

    def of(self, known: ValueStatistics, columns: Vector) -> Vector:
        """Scores of positions, from their statistics and the squared lengths of their columns."""
        return np.sqrt(known.channel_square / known.rows)


class Wanda(Activation):
    """Length of the activation times length of the column (Sun et al., 2024, arXiv 2306.11695).

    The paper scores single weights; a channel is scored by the root of the sum of their squares.
    """

    def of(self, known: ValueStatistics, columns: Vector) -> Vector:
        """Energy of what the channel adds to the layer's output, to the root."""
        return np.sqrt(known.channel_square / known.rows * columns)


class Flap(Activation):
    """Variance of the activation times squared length of the column (An et al., 2023, 2312.11983).

    What does not vary can be replaced by a constant, which repair puts into the bias.
    """

    def of(self, known: ValueStatistics, columns: Vector) -> Vector:
        """Energy of what changes."""
        mean = known.channel_sum / known.rows
        return np.maximum(known.channel_square / known.rows - mean**2, 0) * columns


def _inputs(study: Scoring, group: Group) -> list[tuple[Site, ValueStatistics]]:
    """The weights that read a group, each with statistics of what it is multiplied with."""
    found = []
    for site in group.sites:
        if site.role != "in":
            continue
        for reader in study.readers.get(site.key, []):
            source: fx.Node = reader.args[0]
            size = study.weights[site.key].shape[site.dimension]
            value = value_of(source)
            if value.dim() and value.shape[1 if is_map(source) else -1] == size:
                found.append((site, study.statistics[source.name]))
    return found

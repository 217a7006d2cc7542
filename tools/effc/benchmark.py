"""Side-by-side measurement of an artifact with a model in PyTorch and with peers."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effc.artifact import Artifact
from effc.backends.measure import interleaved
from effc.backends.peers import PEERS, export_peer, open_peer, peer_of
from effc.backends.runner import Model
from effc.environment import environment
from effc.footprint import footprint
from effc.ir.errors import UsageError
from effc.ir.program import Program, bind_sizes
from effc.preparation import cleaned
from effc.progress import Progress
from effc.report import profile_of
from effc.sample import check_sizes, sized_inputs

Arrays = dict[str, np.ndarray]
OWN = "effc"


@dataclass(frozen=True)
class Contest:
    """What to measure.

    Attributes:
        out: The artifact.
        against: A model to run in PyTorch and in the peers; None for the one the artifact was
            compiled from, if peers are asked for.
        peers: Names of peers.
        inputs: Descriptions of the model's inputs; empty for the recipe's.
        sizes: Symbolic sizes to measure at; others as in the artifact's sample.
        threads: Threads for everybody; 0 for what the artifact was built for.
        rounds: How many rounds.
    """

    out: str
    against: str | None = None
    peers: Sequence[str] = ()
    inputs: Sequence[str] = ()
    sizes: dict[str, int] | None = None
    threads: int = 0
    rounds: int = 15

    @property
    def names(self) -> list[str]:
        """The peers in order, PyTorch first if a model is given."""
        return list(dict.fromkeys([*(["torch"] if self.against else []), *self.peers]))

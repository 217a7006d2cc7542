"""Side-by-side measurement of an artifact with a model in PyTorch and with peers."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from effc.artifact import Artifact
from effc.backends.measure import Start, interleaved, timed
from effc.backends.peers import PEERS, export_peer, peer_of
from effc.backends.runner import Model
from effc.environment import environment
from effc.footprint import OWN, footprint
from effc.ir import options
from effc.ir.errors import InputError, ModelError, UsageError
from effc.ir.program import Program, bind_sizes
from effc.preparation import cleaned
from effc.profile import peaks_of, profile_of
from effc.progress import Progress
from effc.sample import check_sizes, sized_inputs

Arrays = dict[str, np.ndarray]
TORCH = "torch"


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
        profile: Whether the machine's limits are measured, too; needs a C compiler.
    """

    out: Path
    against: str | None = None
    peers: Sequence[str] = ()
    inputs: Sequence[str] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    threads: int = 0
    rounds: int = 15
    profile: bool = False

    @property
    def names(self) -> list[str]:
        """The peers in order, PyTorch first if a model is given."""
        return list(dict.fromkeys([*([TORCH] if self.against else []), *self.peers]))


def run_benchmark(contest: Contest, progress: Progress) -> dict[str, Any]:
    """Measure an artifact and what it is compared with in interleaved rounds.

    Args:
        contest: What to measure.
        progress: Called with a stage, the steps done and the steps in all.

    Raises:
        UsageError: For an unknown peer or size, or a model with other inputs.
    """
    for name in contest.names:
        peer_of(name)
    artifact = Artifact(contest.out)
    inputs = _inputs(artifact, contest.sizes)
    threads = contest.threads or min(artifact.manifest.threads, options.default_threads())
    opened, load = timed(lambda: Model(contest.out, threads))
    with tempfile.TemporaryDirectory() as scratch, opened as model:
        entrants = _Entrants(inputs, threads, progress)
        entrants.add(OWN, contest.out, lambda: model.run(inputs), load)
        if contest.names:
            program = _program(contest, artifact, inputs, progress)
            for name in contest.names:
                entrants.invite(name, program, Path(scratch) / name)
        rows = entrants.measured(contest.rounds)
        rows[0]["size_nbytes"] = artifact.size_nbytes
        rows[0]["memory_nbytes"] = rows[0]["memory_nbytes"] or model.memory_nbytes
        return {
            "environment": environment(),
            "model": model.manifest.name,
            "target": model.manifest.target,
            "threads": threads,
            "sizes": model.sizes(inputs),
            "rows": rows,
            "profile": profile_of(model, inputs, artifact.report["kernels"]),
            "peaks": peaks_of(model, threads) if contest.profile else None,
            "notes": entrants.notes,
        }


@dataclass
class _Entrants:
    """Everything that is measured.

    Attributes:
        inputs: What all of them run on.
        threads: Threads for everybody.
        progress: Called with a stage, the steps done and the steps in all.
        calls: What runs each once, by name.
        folders: What would be shipped of each.
        starts: How long each took until its first result.
        notes: Who cannot take part, and why.
    """

    inputs: Arrays
    threads: int
    progress: Progress
    calls: dict[str, Callable[[], object]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    starts: dict[str, Start] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, folder: Path, call: Callable[[], object], load: float) -> None:
        """Take somebody in who took some seconds to load, and run it for the first time."""
        self.calls[name], self.folders[name] = call, folder
        self.starts[name] = Start(load, timed(call)[1])

    def invite(self, name: str, program: Program, folder: Path) -> None:
        """Take a peer in, or note why it cannot run the program."""
        self.progress(f"prepare {name}", 0, 1)
        folder.mkdir()
        try:
            export_peer(PEERS[name], program, self.inputs, folder)
            call, load = timed(lambda: PEERS[name].open(folder, self.inputs, self.threads))
            self.add(name, folder, call, load)
        except ModelError as error:
            self.notes.append(str(error))
        self.progress(f"prepare {name}", 1, 1)

    def measured(self, rounds: int) -> list[dict[str, Any]]:
        """A row for each: latency, size, and memory if there is anybody to compare with."""
        latencies = interleaved(
            self.calls, rounds, lambda done, total: self.progress("measure latency", done, total)
        )
        rows = []
        for number, (name, folder) in enumerate(self.folders.items()):
            memory = None
            if len(self.folders) > 1:
                self.progress("measure memory", number, len(self.folders))
                memory = footprint(name, folder, self.inputs, self.threads)
            nbytes = sum(path.stat().st_size for path in folder.iterdir())
            rows.append({
                "what": name, **latencies[name].to_json(), "size_nbytes": nbytes,
                "memory_nbytes": memory, "start": self.starts[name].to_json(),
            })  # fmt: skip
        self.progress("measure memory", 1, 1)
        return rows


def _inputs(artifact: Artifact, sizes: dict[str, int]) -> Arrays:
    signature, symbols = artifact.manifest.signature, artifact.manifest.ranges
    check_sizes(symbols, sizes)
    known, _ = artifact.sample()
    values = bind_sizes(signature, symbols, known) | sizes
    return sized_inputs(signature, values, known)


def _program(contest: Contest, artifact: Artifact, inputs: Arrays, progress: Progress) -> Program:
    program = artifact.original(contest.against, list(contest.inputs))
    try:
        bind_sizes(program.signature, program.symbols, inputs)
    except InputError as error:
        raise UsageError(
            f"{program.name} cannot run on what the artifact takes: {error}; describe its inputs "
            "with --input"
        ) from error
    return cleaned(program, progress).program

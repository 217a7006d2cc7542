"""Side-by-side measurement of an artifact with a model in PyTorch and with peers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from effc.artifact import Artifact
from effc.backends.measure import interleaved
from effc.backends.peers import peer_call
from effc.backends.runner import Model
from effc.compiler import Progress
from effc.environment import environment
from effc.ir.errors import UsageError
from effc.ir.program import Program, bind_sizes
from effc.ir.trace import open_model
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager
from effc.report import profile_of
from effc.sample import check_sizes, sized_inputs

Arrays = dict[str, np.ndarray]


def run_benchmark(
    out: str,
    against: str | None,
    peers: Sequence[str],
    sizes: dict[str, int],
    threads: int,
    rounds: int,
    progress: Progress,
) -> dict[str, Any]:
    """Measure an artifact and what it is compared with in interleaved rounds.

    Args:
        out: The artifact.
        against: A model to run in PyTorch and in the peers; the one it was compiled from if peers
            are asked for and this is None.
        peers: Names of peers.
        sizes: Symbolic sizes to measure at; others as in the artifact's sample.
        threads: Threads for everybody; 0 for what the artifact was built for.
        rounds: How many rounds.
        progress: Called after every round.

    Raises:
        UsageError: For an unknown peer or size, or a model with other inputs.
    """
    artifact, model = Artifact(out), Model(out, threads)
    threads = threads or model.manifest.threads
    inputs = _inputs(artifact, model, sizes)
    calls: dict[str, Callable[[], object]] = {"effc": lambda: model.run(inputs)}
    source = against or (artifact.report["recipe"]["model"] if peers else None)
    if source:
        program = _program(source, artifact, model)
        chosen = ["torch", *[name for name in peers if name != "torch"]] if against else peers
        for name in chosen:
            progress(f"prepare {name}", 0, 1)
            calls[name] = peer_call(name, program, inputs, threads)
            progress(f"prepare {name}", 1, 1)
    latencies = interleaved(calls, rounds, lambda done, total: progress("measure", done, total))
    return {
        "environment": environment(),
        "model": model.manifest.name,
        "threads": threads,
        "sizes": model.sizes(inputs),
        "rows": [{"what": name, **latency.to_json()} for name, latency in latencies.items()],
        "size_nbytes": artifact.size_nbytes,
        "memory_nbytes": model.memory_nbytes,
        "profile": profile_of(model, inputs),
    }


def _inputs(artifact: Artifact, model: Model, sizes: dict[str, int]) -> Arrays:
    symbols = model.manifest.ranges
    check_sizes(symbols, sizes)
    known, _ = artifact.sample()
    values = bind_sizes(model.signature, symbols, known) | sizes
    return sized_inputs(model.signature, values, known)


def _program(source: str, artifact: Artifact, model: Model) -> Program:
    recipe = artifact.report["recipe"]
    program = open_model(source, inputs=recipe["inputs"], trust_pickle=recipe["trust_pickle"])
    wanted = {spec.name for spec in model.signature.inputs}
    if {spec.name for spec in program.signature.inputs} != wanted:
        raise UsageError(
            f"{source} does not take the artifact's inputs {', '.join(sorted(wanted))}"
        )
    return PassManager.parse(CLEAN).run(program).program

"""Time per kernel, with what it achieves beside the limits of the machine."""

from typing import Any

from effc.backends.base import backend_of
from effc.backends.runner import Model
from effc.ir.errors import BuildError
from effc.ir.symbols import evaluate, parse
from effc.ir.target import Target

RUNS = 5
NOTHING = {"macs": "0", "nbytes": "0", "precision": ""}


def profile_of(
    model: Model, inputs: dict[str, Any], kernels: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row per step: seconds of the fastest of several runs, multiply-adds, bytes.

    Args:
        model: What to run.
        inputs: On what.
        kernels: What the backend noted of every step, in order.
    """
    best: list[tuple[str, float]] = []
    for _ in range(RUNS):
        found = model.session.profile(inputs)
        best = [
            min(pair, key=lambda step: step[1]) for pair in zip(best or found, found, strict=True)
        ]
    sizes = model.sizes(inputs)
    notes = [*kernels, *[NOTHING] * (len(best) - len(kernels))]
    return [
        _row(name, seconds, note, sizes) for (name, seconds), note in zip(best, notes, strict=True)
    ]


def _row(name: str, seconds: float, note: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    family, _, source = name.partition(" ")
    work = {key: evaluate(parse(note.get(key, "0")), sizes) for key in ("macs", "nbytes")}
    precision = note.get("precision", "")
    return {
        "family": family, "source": source, "seconds": seconds, "precision": precision, **work
    }  # fmt: skip


def peaks_of(model: Model, threads: int) -> dict[str, Any] | None:
    """Measured limits of the machine for a model's target; None where there are none.

    Returns:
        `macs`: multiply-adds per second by precision; `reading`: bytes per second from memory.
    """
    backend = backend_of(model.manifest.backend)
    try:
        return backend.peaks(Target.parse(model.manifest.target), threads)
    except BuildError:  # a machine without a compiler runs and measures models all the same
        return None

"""The Python interface: trace, compile, load."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from effc.artifact import Artifact
from effc.backends.runner import Model
from effc.compiler import Compilation
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.passes.base import Pass
from effc.preparation import Sources
from effc.progress import Progress, no_progress
from effc.recipe import make_recipe


def trace(
    model: Any,
    example_inputs: Any = None,
    *,
    inputs: Sequence[str] = (),
    trust_pickle: bool = False,
    name: str | None = None,
) -> Program:
    """Turn a model into a program.

    Args:
        model: A path, `package.module:factory`, module, exported program or program.
        example_inputs: A tensor, a tuple, or a dict of keyword arguments, for modules.
        inputs: `name:dtype[dims]` texts; a dimension may be a symbol with a range.
        trust_pickle: Whether a pickled module may be loaded.
        name: What to call the model.

    Raises:
        ModelError: If the model cannot be read or traced.
    """
    return open_model(
        model, inputs=inputs, example_inputs=example_inputs, trust_pickle=trust_pickle, name=name
    )


def compile(
    model: Any,
    *,
    out: str | Path,
    target: str = "native",
    example_inputs: Any = None,
    passes: str | Sequence[Pass] | None = None,
    calibration: Any = None,
    evaluation: Any = None,
    metric: str | Callable[..., float] | None = None,
    evaluate: Callable[[Model], float] | None = None,
    max_drop: str | float | None = None,
    max_size: str | float | None = None,
    max_latency: str | float | None = None,
    progress: Progress = no_progress,
    **settings: Any,
) -> Artifact:
    """Compile a model into an artifact folder.

    Args:
        model: Anything `trace` takes.
        out: The folder to write; replaced only if everything succeeds.
        target: What to build for, such as `native` or `x86-64-v3{cores=4}`.
        example_inputs: For modules.
        passes: A pipeline's text, or passes; by default 8-bit quantization.
        calibration: Batches of inputs, or where to find them.
        evaluation: Batches of `(inputs, labels)`, or where to find them.
        metric: A built-in metric's name, or a function of an iterable of `(outputs, labels)`.
        evaluate: Instead of `evaluation` and `metric`: task quality of a loaded model, larger is
            better.
        max_drop: Largest loss of quality: `"1%"`, `"0.5pt"`, or a share such as 0.01.
        max_size: Largest size: `"3MB"`, `"25%"`, or a share of the baseline's such as 0.25.
        max_latency: Longest run: `"5ms"`, `"60%"`, or a share of the baseline's such as 0.6.
        progress: Called with a stage, the steps done and the steps in all.
        settings: Other keys of a recipe: `exclude`, `set`, `sizes`, `threads`, `seed`, ...

    Raises:
        EffcError: With the exit code the command line would give in `exit_code`.
    """
    named = {
        "model": model, "calib": calibration, "eval": evaluation, "metric": metric,
        "passes": passes, "target": target, "max_drop": _share(max_drop),
        "max_size": _share(max_size), "max_latency": _share(max_latency),
    }  # fmt: skip
    texts = {name: str(one) for name, one in named.items() if isinstance(one, str | Path)}
    sources = Sources(
        model,
        example_inputs,
        calibration,
        evaluation,
        metric,
        evaluate,
        None if passes is None or isinstance(passes, str) else tuple(passes),
    )
    return Compilation(make_recipe({**texts, **settings}), sources, progress).run(out)


def load(
    folder: str | Path, *, threads: int = 0, check: bool = True, bits: int = 0, depth: int = 0
) -> Model:
    """Load an artifact.

    Args:
        folder: The artifact.
        threads: How many threads to use; 0 for what it was built for.
        check: Whether to compare every file with its digest first.
        bits: Which width of the weights of an artifact compiled with `elastic`; 0 for the widest.
        depth: How many blocks of an artifact compiled with `depths`; 0 for all.

    Raises:
        UsageError: If it does not offer that width.
        ArtifactError: If it is damaged or was built for another machine.
    """
    return Model(folder, threads, check, bits, depth)


def _share(value: str | float | None) -> str | None:
    return value if value is None or isinstance(value, str) else f"{100 * value:g}%"

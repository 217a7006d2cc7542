"""`effc run`: run an artifact on its sample or on given inputs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from effc.commands import options as shared


def command(
    out: shared.Out,
    inputs: Annotated[
        str | None, typer.Option("--input", help="An .npz file with an array per input.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--out", help="The .npz file for the outputs.")
    ] = None,
    threads: shared.Threads = 0,
) -> None:
    """Run an artifact on inputs, or check its sample."""
    import numpy as np

    from effc.artifact import Artifact
    from effc.backends.runner import Model
    from effc.ir.errors import UsageError

    artifact = Artifact(out)
    model = Model(out, threads)
    if inputs is None:
        given, expected = artifact.sample()
    else:
        given, expected = read_arrays(Path(inputs)), {}
    results = model.run(given)
    for name, value in results.items():
        typer.echo(f"{name}: {value.dtype}{list(value.shape)}")
    if expected:
        check_sample(artifact, results, expected)
        typer.echo("the sample's outputs are as expected")
    if output:
        try:
            np.savez(output, **results)  # type: ignore[arg-type]
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from error


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an `.npz` file.

    Raises:
        UsageError: If it cannot be read.
    """
    import zipfile

    import numpy as np

    from effc.ir.errors import UsageError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise UsageError(f"cannot read {path} as .npz: {error}") from error


def check_sample(artifact: Any, results: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare outputs with the sample's, as closely as the compile found them to agree."""
    import torch

    from effc.ir.errors import MismatchError
    from effc.passes.instruments import sqnr

    checks = artifact.report["result"]["check"]
    for name, value in expected.items():
        agreement = sqnr(torch.from_numpy(value), torch.from_numpy(results[name]))
        required = checks[name]["required_db"]
        if agreement < required:
            raise MismatchError(
                f"output {name} differs from the sample: {agreement:.1f} dB, "
                f"at least {required:.1f} dB expected"
            )

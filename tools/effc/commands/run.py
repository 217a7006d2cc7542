"""`effc run`: run an artifact on its sample or on given inputs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from effc.commands import options as shared


def command(
    out: shared.Out,
    inputs: Annotated[
        str | None,
        typer.Option("--input", help="An .npz or safetensors file with an array per input."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--out", help="The .npz file for the outputs.")
    ] = None,
    threads: shared.Threads = 0,
    bits: shared.Bits = 0,
    depth: shared.Depth = 0,
) -> None:
    """Run an artifact on inputs, or check its sample."""
    import numpy as np

    from effc.artifact import Artifact
    from effc.backends.runner import Model, as_array
    from effc.ir.data.files import read_arrays
    from effc.ir.errors import UsageError
    from effc.recipe import WIDEST

    artifact = Artifact(out)
    model = Model(out, threads, bits=bits, depth=depth)
    if inputs is None:
        given, expected = artifact.sample()
    else:
        arrays = read_arrays(Path(inputs)).items()
        given, expected = {name: as_array(name, value) for name, value in arrays}, {}
    results = model.run(given)
    for name, value in results.items():
        typer.echo(f"{name}: {value.dtype}{list(value.shape)}")
    if expected and bits in (0, WIDEST) and not depth:
        check_sample(artifact, results, expected)
        typer.echo("the sample's outputs are as expected")
    if output:
        try:
            np.savez(output, **results)  # type: ignore[arg-type]
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from error


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

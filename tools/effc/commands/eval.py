"""`effc eval`: task quality of an artifact or a model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from effc.commands import options as shared


def command(
    subject: Annotated[str, typer.Argument(metavar="OUT|MODEL", help="An artifact or a model.")],
    data: Annotated[str, typer.Option("--data", help="Inputs with labels.")],
    metric: shared.Metric = "top1",
    tokenizer: shared.Tokenizer = None,
    inputs: shared.Inputs = None,
    threads: shared.Threads = 0,
    trust_pickle: shared.TrustPickle = False,
    as_json: shared.AsJson = False,
) -> None:
    """Measure the task quality of an artifact, or of a model in PyTorch."""
    from effc.backends.artifact import MANIFEST
    from effc.evaluation import evaluate_artifact, evaluate_model
    from effc.metrics import metric_of
    from effc.progress import progress_on_stderr

    chosen = metric_of(metric or "top1")
    with progress_on_stderr(quiet=as_json) as progress:
        if (Path(subject) / MANIFEST).is_file():
            value = evaluate_artifact(subject, data, chosen, tokenizer, threads, progress)
        else:
            value = evaluate_model(
                subject, data, chosen, tokenizer, inputs or [], trust_pickle, progress
            )
    if as_json:
        typer.echo(json.dumps({"metric": chosen.name, "better": chosen.better, "value": value}))
    else:
        typer.echo(f"{chosen.name}: {value:.6g}")

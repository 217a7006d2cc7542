"""`effc eval`: task quality of an artifact or a model."""

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
    bits: shared.Bits = 0,
    depth: shared.Depth = 0,
    trust_pickle: shared.TrustPickle = False,
    as_json: shared.AsJson = False,
) -> None:
    """Measure the task quality of an artifact or a model."""
    from effc.backends.artifact import MANIFEST
    from effc.evaluation import Question, evaluate_artifact, evaluate_model
    from effc.metrics import metric_of
    from effc.progress import progress_on_stderr

    chosen = metric_of(metric or "top1")
    with progress_on_stderr() as progress:
        question = Question(data, chosen, tokenizer, progress)
        if (Path(subject) / MANIFEST).is_file():
            scores = evaluate_artifact(subject, question, threads, bits, depth)
        else:
            scores = evaluate_model(subject, question, inputs or [], trust_pickle)
    if as_json:
        value = next(iter(scores.values()))
        facts = {"metric": chosen.name, "better": chosen.better, "value": value, "scores": scores}
        shared.print_json(facts)
        return
    for name, value in scores.items():
        typer.echo(f"{name}: {value:.6g}")

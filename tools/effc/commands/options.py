"""Options several commands share."""

from typing import Annotated, Any

import typer

MODEL_HELP = "A .pt2, .onnx or .pt file, a Hugging Face folder, or package.module:factory."
TARGET_HELP = "What to build for; `effc targets` lists them."

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Out = Annotated[str, typer.Argument(metavar="OUT", help="An artifact folder.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help='An input: "name:dtype[dims]"; a dim may be "batch=1..8".'),
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Load a pickled module; it can run any code.")
]
TargetName = Annotated[str, typer.Option("--target", help=TARGET_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads; 0 for all.")]
Bits = Annotated[int, typer.Option("--bits", min=0, help="Width of an elastic artifact's weights.")]
Depth = Annotated[int, typer.Option("--depth", min=0, help="Blocks of an elastic artifact.")]
Sizes = Annotated[
    list[str] | None,
    typer.Option("--sizes", help="Symbolic dimensions to measure at: sequence=128."),
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", help="top1, perplexity, cosine, sqnr, or package.module:function."),
]
Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", help="Tokenizer folder for text data.")
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", help="Layers to leave alone (a pattern).")
]
Rules = Annotated[
    list[str] | None, typer.Option("--set", help='Options per layer: "encoder.*:bits=8".')
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all randomness.")]


def print_json(content: Any) -> None:
    """Print one JSON document."""
    from effc.documents import json_text

    typer.echo(json_text(content))


def parse_sizes(texts: list[str] | None) -> dict[str, int]:
    """Read `name=number` texts.

    Raises:
        UsageError: If one has another form.
    """
    from effc.ir.errors import UsageError

    sizes: dict[str, int] = {}
    for text in texts or []:
        for part in text.split(","):
            name, equals, value = part.strip().partition("=")
            if not equals or not value.isdigit():
                raise UsageError(f"--sizes {text!r}: write name=number")
            sizes[name] = int(value)
    return sizes

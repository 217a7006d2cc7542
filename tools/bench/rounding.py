"""The zoo's language model in few bits: every way to round weights, with bytes and perplexity."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress
from rich.table import Table

from effc.evaluation import EagerModel
from effc.ir.data import open_data
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.metrics import metric_of, quality
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.preparation import cleaned
from effc.progress import no_progress
from effc.tables import table

SECTION, TITLE, NAME = "rounding", "ways to round", "language_model"
MODELS = (NAME,)
MODEL, INPUT = "zoo.language_model:language_model", "input_ids:int64[batch=1..64,length=2..512]"
WIDTHS, HALF, FLOAT_NBYTES = (8, 4, 3, 2), 0.5, 4
WHAT, FLOAT, NEAREST = "perplexity", "float32", "nearest"
ABOUT = (
    "All linear layers of the zoo's language model in groups of 32 (NF4 64, planes 128, others "
    "as they say), activations and the embedding in float; bytes of codes, scales, zero "
    "points and tables; perplexity on held out text, in PyTorch, from codes as they are stored. "
    "*of nearest's* is the increase over that of rounding to nearest on the whole range at the "
    "same width."
)
AWQ = "smooth-activations{{method=awq bits={bits} symmetric=false}}"
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One way to round.

    Attributes:
        name: In the table.
        options: Of `quantize-weights`, besides bits and activations.
        before: Passes before it.
        bits: Widths it is measured at.
    """

    name: str
    options: str
    before: str = ""
    bits: tuple[int, ...] = (4, 3, 2)

    def pipeline(self, bits: int) -> str:
        """The passes."""
        before = self.before.format(bits=bits)
        text = f"quantize-weights{{bits={bits} {self.options} activations=float32}}"
        return f"{before},{text}" if before else text


WAYS = (
    Way(NEAREST, "weight_observer=minmax"),
    Way(f"{NEAREST}, zero points", "weight_observer=minmax symmetric=false"),
    Way("clipped", "weight_observer=mse"),
    Way("clipped, zero points", "weight_observer=mse symmetric=false"),
    Way("HQQ, zero points", "rounding=hqq symmetric=false"),
    Way("AWQ, zero points", "symmetric=false", AWQ),
    Way("GPTQ", "rounding=gptq"),
    Way("GPTQ, zero points", "rounding=gptq symmetric=false"),
    Way("AdaRound, zero points", "rounding=adaround symmetric=false", bits=(4, 3)),
    Way("rotated, GPTQ, zero points", "rounding=gptq symmetric=false", "rotate-residual"),
    Way("SliM-LLM, zero points", "rounding=slim-llm symmetric=false"),
    Way("PTQTP, two ternary planes", "scheme=ternary group=128", bits=(4,)),
    Way("NF4", "scheme=nf4 group=64", bits=(4,)),
    Way("NF4, GPTQ", "scheme=nf4 group=64 rounding=gptq", bits=(4,)),
    Way("MXFP4", "scheme=mxfp4", bits=(4,)),
    Way("NVFP4", "scheme=nvfp4", bits=(4,)),
    Way("NVFP4, GPTQ", "scheme=nvfp4 rounding=gptq", bits=(4,)),
    Way("E4M3", "scheme=e4m3 group=0 weight_observer=minmax", bits=(8,)),
    Way("MXFP8", "scheme=mxfp8 weight_observer=minmax", bits=(8,)),
)


def linear_nbytes(program: Program) -> int:
    """Bytes of what linear layers read: everything but the embedding and the rotary tables."""
    others = ("embedding", "cosine", "sine", "norm")
    sizes = {
        name: one.numel() * one.element_size()
        for name, one in program.weights().items()
        if not any(word in name for word in others)
    }
    return sum(sizes.values())


def perplexity_of(program: Program) -> float:
    """On the held-out text."""
    data = open_data("zoo.language_model:evaluation", program.signature, program.symbols)
    metric = metric_of("zoo.language_model:perplexity")
    return next(iter(quality(EagerModel(program), data, metric).values()))


def cases() -> list[tuple[Way, int]]:
    """Every way at every width it is measured at."""
    return [(way, bits) for bits in WIDTHS for way in WAYS if bits in way.bits]


def rows_of(progress: Progress, wanted: Sequence[str], known: Sequence[Row] = ()) -> Iterator[Row]:
    """A row per way and width that is not known yet."""
    program = cleaned(open_model(MODEL, inputs=[INPUT]), no_progress).program
    data = open_data("zoo.language_model:calibration", program.signature, program.symbols)
    ctx = PassContext(calibration=[inputs for inputs, _ in data])
    done = {(one["variant"], one["bits"]) for one in known}
    task = progress.add_task(TITLE, total=len(cases()) + 1)
    if (FLOAT, 32) not in done:
        yield row(FLOAT, 32, program)
    for way, bits in cases():
        progress.advance(task)
        if (way.name, bits) not in done:
            report = PassManager.parse(way.pipeline(bits)).run(program, ctx)
            yield row(way.name, bits, report.program)
    progress.advance(task)


def row(name: str, bits: int, program: Program) -> Row:
    """What is kept of one result."""
    return {
        "section": SECTION, "model": NAME, "what": WHAT, "variant": name, "bits": bits, "unit": "1",
        "value": perplexity_of(program), "better": "lower", "peer": None,
        "nbytes": linear_nbytes(program),
    }  # fmt: skip


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """Perplexity and its increase, beside round-to-nearest's at the same width."""
    columns = ("bits", "bytes", "bits per weight", "perplexity", "increase", "of nearest's")
    made = table(f"{NAME}: weights only", "rounding", *columns, numbers=set(columns))
    base = next(one for one in rows if one["variant"] == FLOAT)
    count = base["nbytes"] / FLOAT_NBYTES
    for one in sorted(rows, key=lambda one: (-one["bits"], one["value"])):
        share = share_of(rows, one)
        made.add_row(
            one["variant"], str(one["bits"]), f"{one['nbytes']:,}",
            f"{8 * one['nbytes'] / count:.2f}", f"{one['value']:.4f}",
            f"{one['value'] - base['value']:.4f}", "" if share is None else f"{share:.2f}",
        )  # fmt: skip
    return [made]


def share_of(rows: Sequence[Row], one: Row) -> float | None:
    """The increase of perplexity as a share of that of rounding to nearest at the same width."""
    base = next(row["value"] for row in rows if row["variant"] == FLOAT)
    plain = [r["value"] for r in rows if (r["variant"], r["bits"]) == (NEAREST, one["bits"])]
    return (one["value"] - base) / (plain[0] - base) if plain else None


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
    """Per width, the ways whose increase is at most half that of rounding to nearest."""
    for bits in WIDTHS:
        here = [(share_of(rows, one), one) for one in rows if one["bits"] == bits]
        shares = {one["variant"]: share for share, one in here if share is not None}
        half = [name for name, share in shares.items() if share <= HALF and name != NEAREST]
        if shares:
            text = ", ".join(half) or "none"
            yield f"{bits} bits, at most half the increase of rounding to nearest: {text}"

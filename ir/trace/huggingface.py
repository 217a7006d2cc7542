"""The front door for Hugging Face folders: `config.json` beside safetensors.

The architecture comes from the installed transformers; nothing is downloaded and no code from the
folder is run.
"""

import json
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import torch

from effc.ir.errors import ModelError
from effc.ir.program import FORWARD, Program, TensorSpec
from effc.ir.symbols import Size, Symbol
from effc.ir.trace.failures import explain, violations
from effc.ir.trace.huggingface_inputs import FIXED_SEQUENCE, inputs_of
from effc.ir.trace.inputs import WantedInputs
from effc.ir.trace.module import trace_module
from effc.ir.trace.names import BATCH
from effc.ir.trace.quiet import quiet
from effc.ir.trace.request import Request
from effc.ir.trace.sniff import Kind, sniff

CONFIG = "config.json"
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
SHOWN_KEYS = 3
FACTORY = "give package.module:factory, a function that builds it"


def open_folder(folder: Path, request: Request) -> Program:
    """Open a Hugging Face folder.

    Batch (1..8) and sequence (1..the model's longest) are symbolic where torch.export can follow
    the model with them; a dimension that had to be fixed is noted in `request.notes`.

    Raises:
        ModelError: If the folder is incomplete or damaged, or the model cannot be traced.
        UsageError: If the inputs asked for do not fit.
    """
    name = request.name or folder.resolve().name
    folder = _transformer_folder(folder)
    model = _load(folder, _read_config(folder))
    if request.wanted.specs or request.examples is not None:
        return trace_module(model, request.wanted, request.examples, name)
    program = _trace_freest(model, inputs_of(model, folder), name, request.notes)
    _draw_tokens(program, model)
    return program


def _draw_tokens(program: Program, model: Any) -> None:
    """Let the examples be of the whole vocabulary, not of its first two tokens."""
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", 2)
    generator = torch.Generator().manual_seed(0)
    program.examples[FORWARD] = tuple(
        torch.randint(vocabulary, example.shape, generator=generator)
        if spec.name.endswith("input_ids")
        else example
        for spec, example in zip(program.signature.inputs, program.examples[FORWARD], strict=True)
    )


def _transformer_folder(folder: Path) -> Path:
    """The folder of the transformer where sentence-transformers keeps it in one of its own."""
    if (folder / CONFIG).exists():
        return folder
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        paths = [part["path"] for part in modules if part["type"].endswith(".Transformer")]
        found = (folder / paths[0]).resolve()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return folder
    return found if found.is_relative_to(folder.resolve()) else folder


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} has no {CONFIG}; a Hugging Face folder holds {CONFIG} and model.safetensors"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}, not an object")
    if "quantization_config" in config:
        raise ModelError(f"the weights in {folder} are quantized already; give the original model")
    return config


def _load(folder: Path, config: dict[str, Any]) -> torch.nn.Module:
    """The model with its weights: float32, evaluation mode, no cache among its outputs."""
    uses_safetensors = _has_safetensors(folder)
    try:
        with quiet():
            import transformers
    except ImportError as error:
        raise ModelError(
            'a Hugging Face folder needs the package transformers: pip install "effc[hf]"'
        ) from error
    kind = _architecture(folder, config, transformers)
    options = {"local_files_only": True, "trust_remote_code": False, "dtype": torch.float32}
    options["use_safetensors"] = uses_safetensors
    if hasattr(kind, "_supports_sdpa"):
        options["attn_implementation"] = "sdpa" if kind._supports_sdpa else "eager"
    try:
        with quiet():
            model, report = kind.from_pretrained(str(folder), output_loading_info=True, **options)
    except Exception as error:  # transformers, safetensors and torch raise what they raise
        raise explain(error, f"cannot load the model in {folder}") from error
    if missing := sorted(report["missing_keys"]):
        shown = ", ".join(missing[:SHOWN_KEYS]) + (", ..." if len(missing) > SHOWN_KEYS else "")
        raise ModelError(f"the weights in {folder} lack {len(missing)} tensors: {shown}")
    for part in model.modules():
        if hasattr(getattr(part, "config", None), "use_cache"):
            part.config.use_cache = False
    module: torch.nn.Module = model.eval()
    return module


def _has_safetensors(folder: Path) -> bool:
    """Whether the weights are safetensors; if not, check that loading torch's runs no code."""
    if any((folder / name).exists() for name in SAFETENSORS):
        return True
    files = sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ModelError(f"{folder} holds no weights; it needs model.safetensors")
    for file in files:
        facts = sniff(file)
        if facts.kind is not Kind.STATE_DICT:
            raise ModelError(f"{file} is {facts.kind.value}, not plain weights; use safetensors")
    return False


def _architecture(folder: Path, config: dict[str, Any], transformers: Any) -> Any:
    """The class of transformers the folder names, or what transformers has for its model type."""
    if not (names := config.get("architectures")):
        return transformers.AutoModel
    with quiet():
        found = getattr(transformers, str(names[0]), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ModelError(
            f"transformers {transformers.__version__} has no architecture {names[0]}, and effc "
            f"runs no code from {folder}; {FACTORY}"
        )
    return found


def _trace_freest(
    model: torch.nn.Module, wanted: WantedInputs, name: str, notes: list[str]
) -> Program:
    """Trace with as few dimensions fixed as torch.export allows, the sequence before the batch."""
    symbols = list(reversed(wanted.symbols))
    blamed: set[str] = set()
    first: ModelError | None = None
    for chosen in chain.from_iterable(combinations(symbols, n) for n in range(len(symbols) + 1)):
        if not blamed <= set(chosen):
            continue
        sizes = {symbol: _fixed_size(wanted.symbols[symbol]) for symbol in chosen}
        try:
            program = trace_module(model, _fixed(wanted, sizes), None, name)
        except ModelError as error:
            first = first or error
            found = {violation.symbol for violation in violations(error.__cause__ or error)}
            blamed |= found & set(symbols)
            continue
        notes += [
            f"the dimension {symbol} is fixed at {sizes[symbol]}: {first}" for symbol in sizes
        ]
        return program
    raise first or ModelError(f"cannot trace {name}")


def _fixed_size(symbol: Symbol) -> int:
    return 1 if symbol.name == BATCH else min(FIXED_SEQUENCE, symbol.maximum)


def _fixed(wanted: WantedInputs, sizes: dict[str, int]) -> WantedInputs:
    """The same inputs with numbers in place of some symbols."""

    def shape(spec: TensorSpec) -> tuple[Size, ...]:
        return tuple(sizes.get(str(size), size) for size in spec.shape)

    specs = tuple(replace(spec, shape=shape(spec)) for spec in wanted.specs)
    rest = {name: found for name, found in wanted.symbols.items() if name not in sizes}
    return WantedInputs(specs, rest)

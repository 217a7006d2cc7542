"""The one entrance: whatever a user calls data becomes batches for a model."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from effc.ir.data.batches import Data, Sample
from effc.ir.data.files import array_source, is_array_file
from effc.ir.data.loaders import iterable_source, loader_source
from effc.ir.data.text import text_source
from effc.ir.errors import DataError
from effc.ir.program import Signature
from effc.ir.symbols import Symbol
from effc.ir.trace.factory import is_reference

FORMS = "expected a .npz or .safetensors file, a folder of them, text, or package.module:loader"


def open_data(
    spec: Any,
    signature: Signature,
    symbols: dict[str, Symbol],
    *,
    tokenizer: str | Path | None = None,
) -> Data:
    """Open data for a model, and check its first batch.

    Args:
        spec: An `.npz` or safetensors file with arrays named after the inputs (rows in the first
            dimension, labels in `labels` or `y`), a folder of such files, a text file (with
            `tokenizer`), a text `package.module:loader`, or an iterable of inputs or of
            `(inputs, labels)`.
        signature: The model's inputs.
        symbols: Ranges of its symbolic dimensions.
        tokenizer: A folder with `tokenizer.json`, for text.

    Returns:
        Batches `(inputs, labels)` that fit the signature.

    Raises:
        DataError: If the data cannot be read, is empty or does not fit, saying which and why.
        UsageError: If a loader cannot be imported.
    """
    if isinstance(spec, Data):
        return spec
    name = str(spec) if isinstance(spec, str | Path) else "the data"
    data = Data(name, _source(spec, signature, symbols, tokenizer), signature, symbols)
    next(iter(data))
    return data


def _source(
    spec: Any, signature: Signature, symbols: dict[str, Symbol], tokenizer: str | Path | None
) -> Callable[[], Iterable[Sample]]:
    if not isinstance(spec, str | Path):
        return iterable_source(spec, signature)
    path = Path(spec)
    if not path.exists():
        if is_reference(str(spec)):
            return loader_source(str(spec), signature)
        raise DataError(f"{spec} does not exist; {FORMS}")
    if path.is_dir() or is_array_file(path):
        return array_source(path, [entry.name for entry in signature.inputs])
    if tokenizer is None:
        raise DataError(f"{spec} is neither .npz nor .safetensors; text needs a tokenizer folder")
    return text_source(path, Path(tokenizer), signature, symbols)

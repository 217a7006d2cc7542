"""Lines of text as the token inputs of a language model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effc.ir.data.batches import USUAL_BATCH, Sample
from effc.ir.errors import DataError
from effc.ir.program import Signature, TensorSpec
from effc.ir.symbols import Size, Symbol

TOKENIZER = "tokenizer.json"
PADDING = ("[PAD]", "<pad>", "<|endoftext|>", "</s>")
FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


@dataclass(frozen=True)
class Lengths:
    """Allowed numbers of tokens and of rows."""

    shortest: int
    longest: int
    rows: int


def text_source(
    path: Path, tokenizer: Path, signature: Signature, symbols: dict[str, Symbol]
) -> Callable[[], Iterator[Sample]]:
    """Samples of tokenised lines, a batch each, in the order of the file; empty lines are skipped.

    Lines are cut to the longest sequence the model takes and padded to the longest of their batch,
    or to the model's sequence where that is fixed.

    Args:
        path: A text file in UTF-8.
        tokenizer: A folder with `tokenizer.json`, or that file.
        signature: The model's inputs, out of `input_ids`, `attention_mask`, `token_type_ids`.
        symbols: Ranges of the symbolic dimensions.

    Raises:
        DataError: If the tokenizer cannot be read or the model takes inputs that are not tokens.
    """
    lengths = _lengths(path, signature, symbols)
    encoder = _load_tokenizer(tokenizer)
    encoder.enable_truncation(lengths.longest)
    encoder.no_padding()
    padding = _padding(encoder)

    def samples() -> Iterator[Sample]:
        lines = _lines(path)
        for start in range(0, len(lines), lengths.rows):
            encodings = encoder.encode_batch(lines[start : start + lengths.rows])
            yield Sample(_padded(encodings, lengths.shortest, padding), None, str(path))

    return samples


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _load_tokenizer(folder: Path) -> Any:
    path = folder / TOKENIZER if folder.is_dir() else folder
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the folder that holds {TOKENIZER}")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataError('text data needs the package tokenizers: pip install "effc[hf]"') from error
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"cannot read the tokenizer {path}: {error}") from error


def _lengths(path: Path, signature: Signature, symbols: dict[str, Symbol]) -> Lengths:
    """How many tokens and rows a batch may have, from the shape of the token inputs."""
    if foreign := [spec.name for spec in signature.inputs if spec.name not in FIELDS]:
        raise DataError(f"{path}: the model takes {', '.join(foreign)}, which text does not give")
    bounds = [_bounds(path, spec, symbols) for spec in signature.inputs]
    shortest, longest = max(low for low, _, _ in bounds), min(high for _, high, _ in bounds)
    return Lengths(shortest, longest, min(rows for _, _, rows in bounds))


def _bounds(path: Path, spec: TensorSpec, symbols: dict[str, Symbol]) -> tuple[int, int, int]:
    if len(spec.shape) != 2:
        raise DataError(f"{path}: text gives [batch, sequence] inputs; the model takes {spec}")
    rows, tokens = (_range(size, symbols) for size in spec.shape)
    return tokens[0], tokens[1], min(rows[1], max(rows[0], USUAL_BATCH))


def _range(size: Size, symbols: dict[str, Symbol]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    symbol = symbols[str(size)]
    return symbol.minimum, symbol.maximum


def _padding(encoder: Any) -> int:
    """The number of the padding token; 0 where the tokenizer has none."""
    if encoder.padding:
        return int(encoder.padding["pad_id"])
    found = (encoder.token_to_id(token) for token in PADDING)
    return next((number for number in found if number is not None), 0)


def _padded(encodings: list[Any], shortest: int, padding: int) -> dict[str, np.ndarray]:
    """Token inputs int64 [rows, tokens], padded on the right."""
    tokens = max([shortest, *(len(encoding.ids) for encoding in encodings)])
    fills = {"input_ids": padding, "attention_mask": 0, "token_type_ids": 0}
    arrays = {}
    for name, field in FIELDS.items():
        rows = [getattr(encoding, field) for encoding in encodings]
        arrays[name] = np.array(
            [row + [fills[name]] * (tokens - len(row)) for row in rows], dtype=np.int64
        )
    return arrays

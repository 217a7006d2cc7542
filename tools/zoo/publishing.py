"""Store the trained language model: 16-bit weights, held-out excerpt, and a record of both."""

import json
import platform
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from zoo import cache, corpus, language_model
from zoo.transformer import Decoder

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def publish(model: Decoder, training: dict[str, Any]) -> dict[str, Any]:
    """Store the weights in the 16-bit type that costs least, and the record beside them.

    Args:
        model: the trained model.
        training: what the record says about the training.

    Returns:
        The record.
    """
    store_excerpt()
    measured = {name: rounded_perplexity(model, kind) for name, kind in PRECISIONS.items()}
    best = min(measured, key=lambda name: measured[name])
    rounded = {name: weight.to(PRECISIONS[best]) for name, weight in model.state_dict().items()}
    cache.save(rounded, language_model.WEIGHTS)
    full = {"float32": rounded_perplexity(model, torch.float32)}
    record = {
        "perplexity_per_byte": measured[best],
        "perplexity_per_byte_by_precision": measured | full,
        "precision": best,
        "nbytes": language_model.WEIGHTS.stat().st_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "config": asdict(model.config),
        **training,
        **data_record(),
    }
    language_model.RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def store_excerpt() -> None:
    """Write the windows on which perplexity is measured, one byte for each byte of text."""
    language_model.HELD_OUT_TEXT.parent.mkdir(exist_ok=True)
    count, length = language_model.EVALUATION_WINDOWS, language_model.EVALUATION_LENGTH + 1
    excerpt = corpus.windows(corpus.split(held_out=True).text, 0, count, length)
    language_model.HELD_OUT_TEXT.write_bytes(excerpt.astype(np.uint8).tobytes())


def data_record() -> dict[str, Any]:
    """What the model was trained and measured on, and with which versions."""
    sides = {"training": corpus.split(held_out=False), "held_out": corpus.split(held_out=True)}
    counts = {
        name: {"files": len(side.files), "nbytes": side.text.size} for name, side in sides.items()
    }
    predicted = language_model.EVALUATION_WINDOWS * language_model.EVALUATION_LENGTH
    excerpt = {"windows": language_model.EVALUATION_WINDOWS, "predicted_bytes": predicted}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {**counts, "excerpt": excerpt, **versions}


def rounded_perplexity(model: Decoder, precision: torch.dtype) -> float:
    """Perplexity on the stored excerpt, in float32, of weights rounded to a precision."""
    weights = {name: weight.to(precision) for name, weight in model.state_dict().items()}
    return language_model.measure(language_model.restore(model.config, weights))

"""A trained byte-level language model of Python source text, with its data and its metric."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo import corpus
from zoo.metric import Inputs, Results, better, only
from zoo.transformer import Config, Decoder

WEIGHTS = Path(__file__).parent / "weights" / "language_model.safetensors"
RECORD = WEIGHTS.with_suffix(".json")
HELD_OUT_TEXT = WEIGHTS.with_name("held_out.bin")
BATCH = 8
CALIBRATION_WINDOWS = 64
CALIBRATION_LENGTH = 256
EVALUATION_WINDOWS = 64
EVALUATION_LENGTH = 512


def language_model() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The trained model in float32 and example input, int64 [1, 256]."""
    config = Config(**json.loads(RECORD.read_text(encoding="utf-8"))["config"])
    example = held_out_windows()[:1, :CALIBRATION_LENGTH]
    return restore(config, load_file(WEIGHTS)), (torch.from_numpy(example),)


def restore(config: Config, weights: dict[str, Tensor]) -> Decoder:
    """A model in float32 and evaluation mode from weights of any precision."""
    model = Decoder(config)
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model.eval()


def calibration() -> Iterator[Inputs]:
    """Batches `input_ids`, int64 [8, 256], from the training files of the running Python."""
    text = corpus.split(held_out=False).text
    for first in range(0, CALIBRATION_WINDOWS, BATCH):
        yield {"input_ids": corpus.windows(text, first, BATCH, CALIBRATION_LENGTH)}


def evaluation() -> Iterator[tuple[Inputs, NDArray[np.int64]]]:
    """Batches `input_ids`, int64 [8, 512], and the byte that follows each, int64 [8, 512]."""
    windows = held_out_windows()
    for first in range(0, EVALUATION_WINDOWS, BATCH):
        batch = windows[first : first + BATCH]
        yield {"input_ids": batch[:, :-1].copy()}, batch[:, 1:].copy()


def held_out_windows() -> NDArray[np.int64]:
    """The stored excerpt of the held-out files, int64 [64, 513].

    It is stored because the library's files differ from one Python to the next.
    """
    data = np.fromfile(HELD_OUT_TEXT, dtype=np.uint8)
    return data.reshape(EVALUATION_WINDOWS, EVALUATION_LENGTH + 1).astype(np.int64)


@better("lower")
def perplexity(results: Results) -> float:
    """Exponential of the mean negative log likelihood of a byte.

    Args:
        results: pairs of one output, logits [batch, seq, vocabulary], and labels, integers
            [batch, seq].

    Raises:
        ValueError: there is no byte to predict.
    """
    losses = [negative_log_likelihood(only(outputs), labels) for outputs, labels in results]
    if not losses:
        raise ValueError("perplexity of no text")
    return float(np.exp(np.concatenate(losses).mean()))


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Negative log likelihood of every label, in nats.

    Args:
        logits: [batch, seq, vocabulary].
        labels: [batch, seq].

    Returns:
        float64 [batch * seq].
    """
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]
    losses: NDArray[np.float64] = np.log(np.exp(scores).sum(axis=-1)) - chosen
    return losses.ravel()


def measure(model: nn.Module, batches: int = EVALUATION_WINDOWS // BATCH) -> float:
    """Perplexity of a model on the first batches of the stored excerpt, in PyTorch."""
    results = []
    with torch.inference_mode():
        for _, (inputs, labels) in zip(range(batches), evaluation(), strict=False):
            logits = model(torch.from_numpy(inputs["input_ids"])).numpy()
            results.append(({"logits": logits}, labels))
    return perplexity(results)

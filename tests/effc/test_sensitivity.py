"""What is said of each layer, against the arithmetic written out in numpy."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from effc.explanation import explained
from effc.sensitivity import layer_decibel


def decibel(expected, found):
    return 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum())


def eight_bits(x, activation):
    scale, zero = map(float, re.search(r"scale=(\S+) zero_point=(\d+)", activation).groups())
    return (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale


def eight_bit_weight(weight):
    scale = np.abs(weight).max(1, keepdims=True) / 127
    scale[scale == 0] = 1
    return np.clip(np.round(weight / scale), -127, 127) * scale


@pytest.mark.parametrize("name", ["classifier", "with_outlier"])
def test_output_of_each_layer(run, clock, models, name):
    words = f"compile cli_models:{name} -o out --calib cli_models:batches --threads 1"
    run(*words.split(), "-p", "quantize{activations=static}").assert_succeeds()
    notes = json.loads(Path("out/report.json").read_text())["passes"][0]["notes"]["layers"]
    module, _ = getattr(models, name)()
    x = np.load("out/sample.npz")["input.x"]
    for layer in ("first", "second", "last"):
        linear = getattr(module, layer)
        weight = linear.weight.detach().numpy().astype(np.float64)
        bias = linear.bias.detach().numpy()
        exact = x @ weight.T + bias
        rounded = eight_bits(x, notes[layer]["activation"]) @ eight_bit_weight(weight).T + bias
        found = notes[layer]["output_sqnr_db"]
        assert found == pytest.approx(decibel(exact, rounded), abs=0.5), layer
        x = np.maximum(exact, 0)
    assert (notes["second"]["output_sqnr_db"] < 10) == (name == "with_outlier")
    assert torch.is_grad_enabled()


def test_layer_decibel():
    assert layer_decibel({"sqnr_db": 40.0, "weight_sqnr_db": 30}) == 30
    assert layer_decibel({"sqnr_db": 40.0, "output_sqnr_db": 50.0}) == 50
    assert layer_decibel({"sqnr_db": None, "weight": "int8"}) == math.inf


def test_most_sensitive_layers_are_paste_ready():
    layers = {
        f"block[{n}]": {"output_sqnr_db": float(value)}
        for n, value in enumerate([9, 3, 7, 1, 8, 5])
    }
    layers["block[3]#2"] = {"output_sqnr_db": 0.5}
    row = {"notes": {"layers": layers}, "text": "quantize", "refusals": []}
    report = {"passes": [row], "profile": [], "clean": [], "lowering": [], "trials": []}
    report["metric"] = None
    facts = explained(report)
    names = [re.sub(r"\[\[\]", "[", name) for name in facts["most_sensitive"]]
    assert names == ["block[3]", "block[1]", "block[5]", "block[2]", "block[4]"]

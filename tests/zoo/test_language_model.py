import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.export import Dim

from zoo import corpus, language_model, train_language_model
from zoo.transformer import Config


@pytest.fixture(scope="module")
def model():
    return language_model.language_model()[0]


@pytest.fixture(scope="module")
def record():
    return json.loads(language_model.RECORD.read_text(encoding="utf-8"))


def test_stored_files_are_small(record):
    assert language_model.WEIGHTS.stat().st_size == record["nbytes"] <= 8_000_000
    assert language_model.HELD_OUT_TEXT.stat().st_size <= 64 * 1024
    stored = load_file(language_model.WEIGHTS)
    assert {str(weight.dtype) for weight in stored.values()} == {f"torch.{record['precision']}"}
    assert sum(weight.numel() for weight in stored.values()) == record["parameters"]


def test_factory_gives_float32_and_an_example(model):
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training
    (example,) = language_model.language_model()[1]
    assert example.dtype == torch.int64
    assert model(example).shape == (1, 256, 256)


def test_perplexity_is_the_recorded_one(model, record):
    losses = []
    with torch.inference_mode():
        for inputs, labels in language_model.evaluation():
            logits = model(torch.from_numpy(inputs["input_ids"]))
            target = torch.from_numpy(labels)
            losses.append(torch.nn.functional.cross_entropy(logits.mT, target).item())
    perplexity = math.exp(sum(losses) / len(losses))
    assert perplexity == pytest.approx(record["perplexity_per_byte"], rel=1e-3)
    assert perplexity < 3.2


def test_16_bits_cost_little(record):
    measured = record["perplexity_per_byte_by_precision"]
    assert record["perplexity_per_byte"] == min(measured["bfloat16"], measured["float16"])
    assert record["perplexity_per_byte"] == pytest.approx(measured["float32"], rel=2e-3)


def test_later_byte_changes_no_earlier_logits(model):
    tokens = torch.from_numpy(language_model.held_out_windows()[:1, :200].copy())
    changed = tokens.clone()
    changed[0, 120] = (tokens[0, 120] + 1) % 256
    with torch.inference_mode():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :120], after[:, :120], atol=1e-4, rtol=0)
    assert not torch.allclose(before[:, 120:], after[:, 120:], atol=1e-1)


def test_model_exports_with_open_shapes(model):
    shapes = {"input_ids": {0: Dim("batch", min=1, max=8), 1: Dim("seq", min=2, max=512)}}
    windows = torch.from_numpy(language_model.held_out_windows())
    exported = torch.export.export(model, (windows[:2, :64],), dynamic_shapes=shapes)
    for batch, length in ((1, 512), (3, 77)):
        tokens = windows[:batch, :length]
        torch.testing.assert_close(exported.module()(tokens), model(tokens), atol=1e-4, rtol=1e-4)


def test_perplexity_of_equal_scores_is_the_vocabulary():
    results = [({"logits": np.full((2, 3, 256), 5.0, np.float32)}, np.zeros((2, 3), np.int64))]
    assert language_model.perplexity(results) == pytest.approx(256)


def test_perplexity_weighs_every_byte_the_same():
    half = np.log(np.array([[[0.5, 0.5]] * 3]))
    tenth = np.log(np.array([[[0.9, 0.1]]]))
    results = [({"y": half}, np.array([[0, 1, 0]])), ({"y": tenth}, np.array([[1]]))]
    expected = (0.5**3 * 0.1) ** (-1 / 4)
    assert language_model.perplexity(results) == pytest.approx(expected)


def test_perplexity_survives_large_scores():
    logits = np.array([[[1e4, 0.0]]], dtype=np.float32)
    assert language_model.perplexity([({"y": logits}, np.array([[0]]))]) == pytest.approx(1)


def test_evaluation_asks_for_the_next_byte():
    batches = list(language_model.evaluation())
    assert sum(labels.size for _, labels in batches) == 64 * 512
    for inputs, labels in batches:
        np.testing.assert_array_equal(inputs["input_ids"][:, 1:], labels[:, :-1])


def test_calibration_is_from_the_training_files():
    batches = list(language_model.calibration())
    assert [batch["input_ids"].shape for batch in batches] == [(8, 256)] * 8
    text = corpus.split(held_out=False).text.tobytes()
    windows = np.concatenate([batch["input_ids"] for batch in batches])
    assert all(window.astype(np.uint8).tobytes() in text for window in windows)


def test_training_resumed_equals_training_in_one_go(tmp_path):
    config = Config(hidden=16, layers=1, heads=2, key_heads=1, feed_forward=16, context=32)
    schedule = train_language_model.Schedule(4, 2, 16, 32, batch_bytes=64)
    text = corpus.split(held_out=True).text
    whole = train_language_model.begin(config, schedule)
    train_language_model.train(whole, schedule, text, tmp_path / "whole")
    parts = train_language_model.begin(config, schedule)
    for _ in range(3):
        train_language_model.advance(parts, schedule, text)
    parts.save(tmp_path / "parts")
    resumed = train_language_model.begin(config, schedule)
    resumed.load(tmp_path / "parts")
    train_language_model.train(resumed, schedule, text, tmp_path / "parts")
    assert resumed.step == whole.step == schedule.steps
    weights = whole.model.state_dict()
    for name, weight in resumed.model.state_dict().items():
        torch.testing.assert_close(weight, weights[name], atol=0, rtol=0)

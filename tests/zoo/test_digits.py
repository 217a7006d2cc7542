import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.export import Dim

from zoo import digits, images, networks, training

LOWEST_ACCURACY = {"residual_cnn": 0.985, "depthwise_cnn": 0.985, "vit": 0.97}


def test_split_is_the_same_every_time():
    for first, second in zip(images.load(), images.load(), strict=True):
        np.testing.assert_array_equal(first.x, second.x)
        np.testing.assert_array_equal(first.labels, second.labels)


def test_split_uses_every_image_once():
    train, test = images.load()
    pixels = load_digits().data.sum(axis=1)
    seen = np.concatenate([train.x, test.x]).sum(axis=(1, 2, 3), dtype=np.float64)
    ink = (seen + 256) * 8 / 4
    np.testing.assert_allclose(np.sort(ink), np.sort(pixels), atol=1e-2)


def test_split_is_stratified():
    train, test = images.load()
    everything = np.bincount(load_digits().target)
    np.testing.assert_allclose(np.bincount(test.labels), 0.3 * everything, atol=1)
    np.testing.assert_array_equal(np.bincount(train.labels) + np.bincount(test.labels), everything)


@pytest.mark.parametrize("name", LOWEST_ACCURACY)
def test_trained_network_is_accurate(name):
    model, example = getattr(digits, name)()
    _, test = images.load()
    with torch.inference_mode():
        predicted = model(torch.from_numpy(test.x)).argmax(dim=1).numpy()
    accuracy = np.count_nonzero(predicted == test.labels) / 540
    assert accuracy >= LOWEST_ACCURACY[name]
    assert digits.measure(model) == pytest.approx(accuracy)
    assert not model.training
    assert [(x.shape, x.dtype) for x in example] == [((1, 1, 16, 16), torch.float32)]


@pytest.mark.parametrize("name", LOWEST_ACCURACY)
def test_network_exports_with_any_batch(name):
    model, example = getattr(digits, name)()
    shapes = {"x": {0: Dim("batch", min=1, max=64)}}
    exported = torch.export.export(model, (example[0].repeat(2, 1, 1, 1),), dynamic_shapes=shapes)
    x = torch.from_numpy(images.load()[1].x[:5])
    torch.testing.assert_close(exported.module()(x), model(x))


def test_calibration_is_from_the_training_split():
    batches = list(digits.calibration())
    assert [batch["x"].shape for batch in batches] == [(32, 1, 16, 16)] * 8
    train, test = images.load()
    calibration = np.concatenate([batch["x"] for batch in batches])
    np.testing.assert_array_equal(calibration, train.x[:256])
    tested = {image.tobytes() for image in test.x}
    assert not tested & {image.tobytes() for image in calibration}


def test_evaluation_is_the_whole_test_split():
    batches = list(digits.evaluation())
    assert all(inputs["x"].dtype == np.float32 for inputs, _ in batches)
    assert all(labels.dtype == np.int64 for _, labels in batches)
    assert sum(len(labels) for _, labels in batches) == 540


def test_training_is_reproducible_and_leaves_the_caller_alone():
    recipe = training.Recipe(networks.DepthwiseCnn, epochs=1, rate=1e-3, decay=0.0)
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = training.train(recipe).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(8)
    second = training.train(recipe).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)

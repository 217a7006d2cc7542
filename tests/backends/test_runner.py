"""Calling a loaded model: what it takes, what it gives, and what it says to wrong inputs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effc.backends.runner import Model
from effc.ir import symbols
from effc.ir.errors import InputError, UsageError
from effc.ir.program import Program
from effc.ir.testing import ROUNDING, assert_close

Open = Callable[..., Model]
CLOSE = ROUNDING[torch.float32]
PAIRS = ["pair", "eager-pair"]
IMAGES = ["float32", "eager"]


class OnlyDlpack:
    """An array of a library that numpy and torch know nothing of."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)


class Broken:
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("no memory to share")


def misaligned(value: Tensor) -> np.ndarray:
    """The same numbers one byte off."""
    content = np.frombuffer(b"\0" + value.numpy().tobytes(), np.uint8)[1:]
    return content.view(np.float32).reshape(value.shape)


VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "numpy": lambda x: x.numpy(),
    "torch": lambda x: x,
    "dlpack": OnlyDlpack,
    "gradient": lambda x: x.clone().requires_grad_(),
    "transposed": lambda x: np.asfortranarray(x.numpy()),
    "reversed": lambda x: np.ascontiguousarray(x.numpy()[::-1, :, ::-1])[::-1, :, ::-1],
    "strided": lambda x: np.repeat(x.numpy(), 2, axis=3)[..., ::2],
    "broadcast": lambda x: np.broadcast_to(x.numpy()[:1, :1], x.shape),
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "misaligned": misaligned,
    "negated": lambda x: torch._neg_view(-x),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("view", VIEWS)
def test_arrays_of_every_kind(
    name: str, view: str, load: Open, programs: dict[str, Program], pixels: Tensor
) -> None:
    model = load(name)
    meant = torch.tensor(np.array(VIEWS["broadcast"](pixels))) if view == "broadcast" else pixels
    found = model(VIEWS[view](pixels))
    expected = programs["float32"].run({"x": meant})["output"]
    is_tensor = view in ("torch", "gradient", "channels last", "negated")
    assert isinstance(found, torch.Tensor if is_tensor else np.ndarray)
    assert_close("output", expected, torch.as_tensor(found), CLOSE)


def test_readonly_arrays_stay_as_they_are(load: Open, pixels: Tensor) -> None:
    given = pixels.numpy().copy()
    given.flags.writeable = False
    for name in IMAGES:
        load(name)(given)
        np.testing.assert_array_equal(given, pixels.numpy())


@pytest.mark.parametrize("name", PAIRS)
def test_positions_names_and_several_outputs(name: str, load: Open) -> None:
    model = load(name)
    left, right = np.float32([[1, 2, 3, 4]]), np.int64([[10, 20, 30, 40]])
    for found in (
        model(left, right),
        model(left, right=right),
        model(right=right, left=left),
        model.run({"right": right, "left": left}),
    ):
        assert list(found) == ["scaled", "codes"]
        assert (found["scaled"].tolist(), found["scaled"].dtype) == ([[10, 40, 90, 160]], "float32")
        assert (found["codes"].tolist(), found["codes"].dtype) == ([[11, 21, 31, 41]], "int64")


@pytest.mark.parametrize("name", PAIRS)
def test_a_run_reads_no_text(name: str, load: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes in the manifest are text; reading it takes longer than a small model runs."""

    def refuse(text: str) -> None:
        raise AssertionError(f"reads {text}")

    model = load(name)
    monkeypatch.setattr(symbols, "parse", refuse)
    found = model(np.ones((2, 4), np.float32), np.ones((2, 4), np.int64))
    assert found["scaled"].shape == (2, 4)


@pytest.mark.parametrize("name", PAIRS)
def test_outputs_belong_to_the_caller(name: str, load: Open) -> None:
    model = load(name)
    left, right = np.ones((2, 4), np.float32), np.ones((2, 4), np.int64)
    first = model(left, right)
    first["scaled"][:] = 7
    assert left.max() == 1
    assert model(left, right)["scaled"].max() == 1
    assert first["scaled"].min() == 7


@pytest.mark.parametrize("name", PAIRS)
def test_mixed_kinds_give_tensors(name: str, load: Open) -> None:
    found = load(name)(np.ones((1, 4), np.float32), torch.ones(1, 4, dtype=torch.int64))
    assert all(isinstance(value, torch.Tensor) for value in found.values())


LEFT, RIGHT = np.ones((2, 4), np.float32), np.ones((2, 4), np.int64)
WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "dtype": (
        (LEFT.astype(np.float64), RIGHT),
        {},
        "input left has dtype float64, expected float32",
    ),
    "byte order": ((LEFT.astype(">f4"), RIGHT), {}, "input left has dtype >f4, expected float32"),
    "size": ((LEFT[:, :3], RIGHT), {}, "input left has shape [2, 3], expected "),
    "rank": ((LEFT[0], RIGHT), {}, "input left has shape [4], expected "),
    "symbol": ((LEFT, RIGHT[:1]), {}, "input right has shape [1, 4], expected "),
    "range": (
        (np.ones((65, 4), np.float32), RIGHT),
        {},
        "input left has size 65 in dimension 0, expected rows in 1..64",
    ),
    "empty": (
        (LEFT[:0], RIGHT[:0]),
        {},
        "input left has size 0 in dimension 0, expected rows in 1..64",
    ),
    "missing": ((LEFT,), {}, "missing input right; the model takes left, right"),
    "unknown": ((LEFT, RIGHT), {"up": LEFT}, "unknown input up; the model takes left, right"),
    "count": ((LEFT, RIGHT, LEFT), {}, "3 inputs given; the model takes left, right"),
    "twice": ((LEFT, RIGHT), {"left": LEFT}, "input left given twice"),
    "list": (([1.0], RIGHT), {}, "input left is a list, expected an array or tensor"),
    "none": ((None, RIGHT), {}, "input left is a NoneType, expected an array or tensor"),
    "dlpack": ((Broken(), RIGHT), {}, "input left cannot be read as an array: no memory to share"),
    "bfloat16": (
        (torch.ones(2, 4, dtype=torch.bfloat16), RIGHT),
        {},
        "input left cannot be read as an array: Got unsupported ScalarType BFloat16",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs(name: str, case: str, load: Open) -> None:
    arguments, named, message = WRONG[case]
    model = load(name)
    with pytest.raises(InputError) as caught:
        model(*arguments, **named)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert model(LEFT, RIGHT)["codes"].tolist() == (RIGHT + 1).tolist()


@pytest.mark.parametrize("name", PAIRS)
def test_nan_and_infinity_are_inputs_like_others(name: str, load: Open) -> None:
    left = np.float32([[np.nan, np.inf, -np.inf, 2]])
    found = load(name)(left, np.int64([[1, 2, -3, 4]]))
    np.testing.assert_array_equal(found["scaled"], [[np.nan, np.inf, np.inf, 8]])


def test_close_and_with(load: Open, pixels: Tensor) -> None:
    for name in IMAGES:
        with load(name) as model:
            assert model(pixels).shape == (5, 5)
        model.close()
        with pytest.raises(
            UsageError, match=r"^the model is closed; load it again with effc.load$"
        ):
            model(pixels)


def test_negative_threads(artifacts: dict[str, Any]) -> None:
    message = r"^threads is -1; give a number of threads, or 0 for the usual$"
    with pytest.raises(UsageError, match=message):
        Model(artifacts["float32"], threads=-1)


def test_memory_is_weights_and_what_a_run_needs(load: Open, pixels: Tensor) -> None:
    for name in IMAGES:
        model = load(name)
        weights = model.memory_nbytes
        model(pixels)
        assert model.memory_nbytes >= weights > 4 * (3 * 16 * 9 + 16 * 9 + 16 * 16 + 16 * 5)


def test_profile_names_every_step(load: Open, pixels: Tensor) -> None:
    model = load("float32")
    rows = model.session.profile({"x": pixels.numpy()})
    assert any("stem" in name for name, _ in rows)
    assert all(0 <= seconds < 1 for _, seconds in rows)
    ((name, seconds),) = load("eager").session.profile({"x": pixels.numpy()})
    assert (name, seconds > 0) == ("eager forward", True)

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from effc.ir.data import Data, open_data
from effc.ir.errors import DataError, EffcError, UsageError
from effc.ir.program import Signature, TensorSpec
from effc.ir.symbols import Symbol, named

HERE = Path(__file__).parent
BATCH, SEQUENCE = named("batch"), named("sequence")
SYMBOLS = {"batch": Symbol("batch", 1, 8), "sequence": Symbol("sequence", 2, 6)}
ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)


def signature(*specs: TensorSpec) -> Signature:
    return Signature(specs, ())


def spec(name: str, dtype: torch.dtype, *shape: Any) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


X = signature(spec("x", torch.float32, BATCH, 3))
PAIR = signature(spec("x", torch.float32, BATCH, 3), spec("y", torch.float32, BATCH))
FIXED = signature(spec("x", torch.float32, 4, 3))
IDS = signature(
    spec("input_ids", torch.int64, BATCH, SEQUENCE),
    spec("attention_mask", torch.int64, BATCH, SEQUENCE),
)


def opened(source: Any, model: Signature = X, **options: Any) -> Data:
    return open_data(source, model, SYMBOLS, **options)


def line(source: Any, model: Signature = X, **options: Any) -> str:
    with pytest.raises(EffcError) as caught:
        for _ in opened(source, model, **options):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(params=[".npz", ".safetensors"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    def writer(name: str = "data", **arrays: np.ndarray) -> Path:
        path = tmp_path / f"{name}{request.param}"
        if request.param == ".npz":
            np.savez(path, **arrays)
        else:
            save_file(arrays, path)
        return path

    return writer


def test_rows_are_cut_into_batches_the_model_takes(write: Callable[..., Path]) -> None:
    data = opened(write(x=ROWS, labels=np.arange(10)))
    for _ in range(2):
        found = list(data)
        assert [inputs["x"].shape for inputs, _ in found] == [(8, 3), (2, 3)]
        assert np.array_equal(np.concatenate([inputs["x"] for inputs, _ in found]), ROWS)
        assert [labels.tolist() for _, labels in found] == [list(range(8)), [8, 9]]


def test_y_holds_labels_unless_it_is_an_input(write: Callable[..., Path]) -> None:
    path = write(x=ROWS[:2], y=np.zeros(2, dtype=np.float32))
    ((_, labels),) = opened(path)
    assert labels.tolist() == [0, 0]
    ((inputs, labels),) = opened(path, PAIR)
    assert list(inputs) == ["x", "y"]
    assert labels is None


def test_fixed_batches(write: Callable[..., Path]) -> None:
    data = opened(write(x=ROWS[:8], other=np.zeros(1)), FIXED)
    assert [inputs["x"].shape for inputs, _ in data] == [(4, 3), (4, 3)]
    path = write("odd", x=ROWS)
    assert line(path, FIXED) == f"{path}: 10 rows do not divide into batches of 4..4"


def test_inputs_without_a_batch_go_with_every_batch() -> None:
    model = signature(spec("x", torch.float32, 1, 3), spec("table", torch.float32, 5, 3))
    values = {"x": ROWS[:2], "table": np.ones((5, 3), dtype=np.float32)}
    found = list(opened([values], model))
    assert [inputs["table"].shape for inputs, _ in found] == [(5, 3), (5, 3)]
    scalar = signature(spec("x", torch.float32))
    ((inputs, _),) = opened([{"x": np.float32(3)}], scalar)
    assert inputs["x"].shape == ()


def test_folders_are_read_in_order_of_name(write: Callable[..., Path]) -> None:
    write("b", x=ROWS[5:])
    path = write("a", x=ROWS[:5])
    (path.parent / "notes.txt").write_text("not data")
    found = [inputs["x"] for inputs, _ in opened(path.parent)]
    assert np.array_equal(np.concatenate(found), ROWS)


def test_equal_data_has_equal_fingerprints(write: Callable[..., Path]) -> None:
    data = opened(write(x=ROWS))
    same = opened([(torch.tensor(ROWS[:8]), None), ROWS[8:]])
    assert data.fingerprint() == data.fingerprint() == same.fingerprint()
    assert opened([ROWS + 1]).fingerprint() != data.fingerprint()
    labelled = opened([(ROWS, np.arange(10))])
    assert labelled.fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("int32", torch.int64),
        ("uint8", torch.int64),
        ("int64", torch.int32),
        ("bool", torch.int64),
        ("int64", torch.bool),
        ("float64", torch.float32),
        ("float16", torch.float32),
        ("float32", torch.float16),
    ],
)
def test_safe_casts_are_silent(given: str, wanted: torch.dtype) -> None:
    ((inputs, _),) = opened([np.ones((2, 3), dtype=given)], signature(spec("x", wanted, BATCH, 3)))
    assert inputs["x"].dtype == torch.empty(0, dtype=wanted).numpy().dtype
    assert inputs["x"].tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("value", "wanted", "message"),
    [
        (np.ones((1, 3), "int64"), torch.float32, "has dtype int64; the model takes f32"),
        (np.ones((1, 3), "float32"), torch.int64, "has dtype float32; the model takes i64"),
        (np.full((1, 3), 300), torch.uint8, "has values that do not fit uint8"),
        (np.full((1, 3), 2), torch.bool, "has values that do not fit bool"),
        (np.full((1, 3), 1e300), torch.float32, "holds 0 NaN and 3 infinities"),
        (np.array([[np.nan, np.inf, 0]]), torch.float32, "holds 1 NaN and 1 infinities"),
    ],
)
def test_values_that_do_not_fit(value: np.ndarray, wanted: torch.dtype, message: str) -> None:
    model = signature(spec("x", wanted, BATCH, 3))
    assert line([value], model) == f"the data: the array x {message}"


def test_numbers_numpy_lacks() -> None:
    model = signature(spec("x", torch.bfloat16, BATCH, 3))
    assert line([ROWS], model) == "the data: numpy has no bf16, which input x takes"
    ((inputs, _),) = opened([torch.ones(1, 3, dtype=torch.bfloat16)])
    assert inputs["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": ROWS}, "has no x; it holds z"),
        (
            {"x": ROWS.reshape(10, 3, 1)},
            ": x has shape [10, 3, 1], expected x: f32[batch, 3]",
        ),
        (
            {"x": ROWS.reshape(5, 6)},
            ": input x has shape [5, 6], expected x: f32[batch, 3]",
        ),
        ({"x": ROWS, "labels": np.arange(3)}, ": 3 labels for 10 rows"),
        ({"x": ROWS[:0]}, " holds no data"),
    ],
)
def test_arrays_that_do_not_fit(
    arrays: dict[str, np.ndarray], message: str, write: Callable[..., Path]
) -> None:
    path = write(**arrays)
    assert line(path) == f"{path}{message if message[0] in ': ' else ' ' + message}"


def test_rows_that_do_not_match() -> None:
    values = {"x": ROWS, "y": np.zeros(3, dtype=np.float32)}
    expected = "the data: the arrays have different numbers of rows: x 10, y 3"
    assert line([values], PAIR) == expected


def test_sizes_outside_their_range() -> None:
    values = {name: np.ones((2, 9), dtype=np.int64) for name in ("input_ids", "attention_mask")}
    expected = "the data: input input_ids has size 9 in dimension 1, expected sequence in 2..6"
    assert line([values], IDS) == expected


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    forms = "expected a .npz or .safetensors file, a folder of them, text, or package.module:loader"
    assert line("nothing.npz") == f"nothing.npz does not exist; {forms}"
    assert line(tmp_path) == f"{tmp_path} holds no .npz or .safetensors file"
    (tmp_path / "a.txt").write_text("words")
    expected = (
        f"{tmp_path / 'a.txt'} is neither .npz nor .safetensors; text needs a tokenizer folder"
    )
    assert line(tmp_path / "a.txt") == expected


@pytest.mark.parametrize("part", [0, 1, 10, 60, 120, -1, -30])
def test_truncated_files(part: int, write: Callable[..., Path]) -> None:
    path = write(x=ROWS)
    path.write_bytes(path.read_bytes()[:part])
    assert line(path).startswith(f"{path} is damaged or not a file of arrays: ")


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes(seed: int, write: Callable[..., Path]) -> None:
    path = write(x=ROWS)
    content, chance = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(1 + seed % 4):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))
    try:
        list(opened(path))
    except DataError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def test_python_objects_are_not_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Opens:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return open, (str(marker), "w")

    np.savez(tmp_path / "evil.npz", x=np.array([Opens()], dtype=object))
    assert "Object arrays cannot be loaded" in line(tmp_path / "evil.npz")
    assert not marker.exists()


def test_iterables_of_every_form() -> None:
    tensor = torch.ones(2, 3)
    for value in (tensor, tensor.numpy(), (tensor,), [tensor], {"x": tensor}, (tensor, None)):
        ((inputs, labels),) = opened([value])
        assert inputs["x"].tolist() == tensor.tolist()
        assert labels is None
    for value in ((tensor, [5, 6]), ({"x": tensor}, [5, 6]), ((tensor,), [5, 6])):
        ((_, labels),) = opened([value])
        assert labels == [5, 6]
    ((_, labels),) = opened([{"x": tensor, "labels": torch.tensor([5, 6])}])
    assert labels.tolist() == [5, 6]
    pair = (tensor, torch.zeros(2))
    ((inputs, labels),) = opened([pair], PAIR)
    assert inputs["y"].tolist() == [0, 0]
    assert labels is None
    ((_, labels),) = opened([(pair, "anything")], PAIR)
    assert labels == "anything"


def test_a_generator_is_kept_for_the_next_pass() -> None:
    data = opened(np.full((1, 3), number, dtype=np.float32) for number in range(3))
    assert len(list(data)) == len(list(data)) == 3


def test_data_is_returned_as_it_is() -> None:
    data = opened([ROWS])
    assert opened(data) is data


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "the data holds no data"),
        (3, "the data is a int, not an iterable of batches"),
        ({"x": ROWS}, "the data is a dict, not an iterable of batches"),
        (
            ["text"],
            "the data gives a str; expected a dict or a tuple of the inputs x, or (inputs, labels)",
        ),
        (
            [(ROWS, ROWS, ROWS)],
            "the data gives a tuple of 3 (ndarray, ndarray, ndarray); expected a dict or a tuple "
            "of the inputs x, or (inputs, labels)",
        ),
        ([{"x": [[1.0], [2.0, 3.0]]}], "the data: x is not an array: "),
        ([{"x": ["a"]}], "the data: x holds <U1, not numbers"),
        ([(ROWS, "ab")], "the data: 10 rows need as many labels, in an array or a list"),
    ],
)
def test_iterables_that_do_not_fit(source: Any, message: str) -> None:
    assert line(source).startswith(message)


def test_what_a_users_iterable_raises() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield ROWS
        raise ValueError("no more\nat all")

    assert line(broken()).startswith(f"the data failed: no more at {__file__}:")


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(HERE)
    sys.modules.pop("sample_data", None)
    yield
    sys.modules.pop("sample_data", None)


@pytest.mark.usefixtures("loaders")
def test_loaders_in_the_current_folder() -> None:
    data = opened("sample_data:batches")
    assert data.name == "sample_data:batches"
    for _ in range(2):
        assert [labels for _, labels in data] == [[0, 1], [2, 3]]
    assert [inputs["x"].shape for inputs, _ in opened("sample_data:listed")] == [(1, 3), (2, 3)]
    assert str(HERE) not in sys.path


@pytest.mark.usefixtures("loaders")
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("sample_data:number", "sample_data:number is a int, not an iterable or a function"),
        ("sample_data:scalar", "sample_data:scalar is a int, not an iterable of batches"),
        ("sample_data:missing", "sample_data has no missing; check the name after the colon"),
        ("sample_data:failing", "sample_data:failing failed: the disk is gone at "),
        ("nowhere:data", "cannot import nowhere: ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_loaders_that_do_not_work(reference: str, message: str) -> None:
    assert line(reference).startswith(message)


def test_errors_are_of_usage() -> None:
    assert DataError.exit_code == UsageError.exit_code == 2

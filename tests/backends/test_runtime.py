"""How a loaded model behaves in a process: threads, memory, forks, and what it leaves alone."""

import ctypes
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from effc.backends.runner import Model
from effc.ir.errors import ArtifactError, UsageError
from effc.ir.program import Program

Open = Callable[..., Model]
COMPILED = ["float32", "int8"]
LONGEST_SECONDS = 60


def task_count() -> int:
    return len(os.listdir("/proc/self/task"))


def resident_nbytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def map_count(folder: Path) -> int:
    """How many maps of this process are of files in a folder."""
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.parametrize("name", COMPILED)
def test_any_number_of_threads_gives_the_same_bits(name: str, load: Open, pixels: Tensor) -> None:
    expected = load(name, 1)(pixels).numpy().tobytes()
    for threads in (1, 2, 3, 4, 7):
        model = load(name, threads)
        for _ in range(20):
            assert model(pixels).numpy().tobytes() == expected


@pytest.mark.parametrize(("processors", "asked", "threads"), [(1, 0, 1), (7, 0, 2), (1, 3, 3)])
def test_no_more_threads_than_processors_unless_asked(
    processors: int, asked: int, threads: int, load: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artifact was built for two."""
    monkeypatch.setenv("EFFC_THREADS", str(processors))
    before = task_count()
    load("float32", asked)
    assert task_count() - before == threads - 1


def test_sizes_change_from_run_to_run(
    load: Open, pixels: Tensor, programs: dict[str, Program]
) -> None:
    """Working memory is sized anew: no result depends on what ran before it."""
    model, fresh = load("int8", 3), {}
    for size in (1, 2, 3, 5, 64):
        batch = pixels.repeat(13, 1, 1, 1)[:size]
        fresh[size] = (batch, load("int8", 1)(batch))
    for size in (5, 1, 64, 2, 5, 3, 64, 1):
        batch, expected = fresh[size]
        assert model(batch).equal(expected)


def test_opening_and_closing_leaves_nothing(artifacts: dict[str, Path], pixels: Tensor) -> None:
    folder = artifacts["float32"]

    def once() -> None:
        with Model(folder, threads=3, check=False) as model:
            model(pixels)

    for _ in range(20):
        once()
    tasks, files, maps = task_count(), len(os.listdir("/proc/self/fd")), map_count(folder)
    before = resident_nbytes()
    for _ in range(200):
        once()
    assert (task_count(), len(os.listdir("/proc/self/fd"))) == (tasks, files)
    assert map_count(folder) == maps
    assert resident_nbytes() - before < 4 << 20


def test_failing_to_open_leaves_nothing(artifacts: dict[str, Path]) -> None:
    folder = artifacts["float32"]
    tasks, files, maps = task_count(), len(os.listdir("/proc/self/fd")), map_count(folder)
    for _ in range(50):
        with pytest.raises(ArtifactError, match=r"^at most 256 threads, not 300$"):
            Model(folder, threads=300)
    assert (task_count(), len(os.listdir("/proc/self/fd"))) == (tasks, files)
    assert map_count(folder) == maps


def test_two_models_at_once(load: Open, pixels: Tensor) -> None:
    names = ["float32", "int8", "float32"]
    alone = [load(name)(pixels) for name in names]
    models = [load(name, 2) for name in names]
    for _ in range(10):
        for model, expected in zip(models, alone, strict=True):
            assert model(pixels).equal(expected)


def test_one_model_from_eight_threads(load: Open, pixels: Tensor) -> None:
    model = load("int8", 2)
    batches = [pixels[: 1 + number % 5] * (number + 1) for number in range(8)]
    expected = [load("int8", 1)(batch) for batch in batches]
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(50):
            if not model(batches[number]).equal(expected[number]):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(LONGEST_SECONDS)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []


def test_closing_while_others_run(artifacts: dict[str, Path], pixels: Tensor) -> None:
    for _ in range(10):
        model = Model(artifacts["float32"], threads=2, check=False)
        ends: list[str] = []

        def call(model: Model = model, ends: list[str] = ends) -> None:
            try:
                while True:
                    model(pixels)
            except UsageError as error:
                ends.append(str(error))

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        time.sleep(0.01)
        model.close()
        for caller in callers:
            caller.join(LONGEST_SECONDS)
        assert ends == ["the model is closed; load it again with effc.load"] * 3


def in_child(act: Callable[[], str]) -> str:
    """What a function returns in a forked process, which may take five seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, act().encode())
        finally:
            os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + 5
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.01)
    with os.fdopen(reader) as pipe:
        return pipe.read()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_says_so(load: Open, pixels: Tensor, artifacts: dict[str, Path]) -> None:
    """Also when another thread was running the model at the moment of the fork."""
    model = load("float32", 2)
    given = pixels.numpy()
    expected = model(given)
    is_over = threading.Event()

    def keep_running() -> None:
        while not is_over.is_set():
            model(given)

    def act() -> str:
        try:
            model(given)
        except UsageError as error:
            model.close()
            return f"{error} {model.memory_nbytes >= 0}"
        return "it ran"

    runner = threading.Thread(target=keep_running)
    runner.start()
    try:
        said = {in_child(act) for _ in range(10)}
    finally:
        is_over.set()
        runner.join(LONGEST_SECONDS)
    assert said == {"the model was loaded before this process was forked; load it again True"}
    np.testing.assert_array_equal(model(given), expected)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_may_load_the_model(load: Open, pixels: Tensor) -> None:
    model = load("float32", 2)
    given = pixels.numpy()
    expected = model(given).tobytes()

    def act() -> str:
        with Model(model.folder, threads=2) as own:
            return str(own(given).tobytes() == expected)

    assert in_child(act) == "True"


def test_idle_threads_sleep(load: Open, pixels: Tensor) -> None:
    model = load("float32", 4)
    model(pixels)
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.05
    model(pixels)


def denormals_of_this_thread() -> tuple[float, float]:
    """What the C library makes of the smallest float and of half the smallest normal double."""
    library = ctypes.CDLL("libm.so.6")
    library.ldexp.restype, library.ldexp.argtypes = ctypes.c_double, [ctypes.c_double, ctypes.c_int]
    halved = float(np.float32(2.0**-126) * np.float32(0.5))
    return halved, library.ldexp(1.0, -1074) * 1.5


@pytest.mark.parametrize("name", COMPILED)
def test_denormals_of_the_caller_stay_as_they_are(name: str, load: Open, pixels: Tensor) -> None:
    model = load(name, 2)
    assert denormals_of_this_thread() == (2.0**-127, 2.0**-1073)
    model(pixels)
    assert denormals_of_this_thread() == (2.0**-127, 2.0**-1073)
    assert torch.set_flush_denormal(True)
    try:
        model(pixels)
        assert denormals_of_this_thread()[0] == 0
    finally:
        torch.set_flush_denormal(False)


def test_a_replaced_artifact_is_read_anew(artifacts: dict[str, Path], tmp_path: Path) -> None:
    """The old model stays as it was; the new one is new, although its path is the same."""
    folder = Path(shutil.copytree(artifacts["float32"], tmp_path / "out"))
    pixels = torch.ones(1, 3, 12, 12)
    old = Model(folder)
    expected_old = old(pixels)
    folder.rename(tmp_path / "old")
    shutil.copytree(artifacts["pair"], folder)
    new = Model(folder)
    assert new(torch.ones(1, 4), torch.ones(1, 4, dtype=torch.int64))["codes"].tolist() == [[2] * 4]
    shutil.rmtree(tmp_path / "old")
    assert old(pixels).equal(expected_old)
    new.close()
    old.close()


def test_the_same_artifact_twice(artifacts: dict[str, Path], pixels: Tensor) -> None:
    first, second = Model(artifacts["int8"]), Model(artifacts["int8"])
    expected = first(pixels)
    first.close()
    assert second(pixels).equal(expected)
    second.close()
    assert map_count(artifacts["int8"]) == 0

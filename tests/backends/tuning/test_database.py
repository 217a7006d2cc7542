"""The tuning database: what is written is found again, whatever stops the writers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effc.backends.tuning.database import HEADER, Entry, KernelKey, Place, Profile, TuningDatabase
from effc.ir.errors import UsageError

HERE = Path(__file__).parent
PLACE = Place(machine="m", target={"cpu": "znver4"}, threads=2, versions={"effc": "1"})
WHEN = "2026-01-01T00:00:00+00:00"


def key(kernel: str = "k", sizes: dict[str, int] | None = None, place: Place = PLACE) -> KernelKey:
    return KernelKey(kernel=kernel, sizes=sizes or {}, place=place)


def entry(rows: int, seconds: float | None, rounds: int = 8, of: KernelKey | None = None) -> Entry:
    return Entry(
        key=of or key(),
        family="product",
        schedule={"rows": rows},
        rounds=rounds,
        seconds=seconds,
        default_seconds=None if seconds is None else 1.0,
        problem="crashed" if seconds is None else None,
        when=WHEN,
    )


def test_what_is_appended_is_found_again(tmp_path):
    path = tmp_path / "new" / "folder" / "db.jsonl"
    writer = TuningDatabase.open(path)
    assert not path.exists()
    writer.append([entry(1, 1.0), entry(2, 0.5)])
    writer.append([entry(3, None)])
    reader = TuningDatabase.open(path)
    assert reader.lookup(key()) == writer.lookup(key())
    assert [e.schedule["rows"] for e in reader.lookup(key())] == [1, 2, 3]
    best = reader.best(key())
    assert best is not None
    assert (best.schedule, best.ratio) == ({"rows": 2}, 0.5)
    assert reader.lookup(key("other")) == ()
    assert reader.best(key("other")) is None


def test_keys_tell_shapes_machines_threads_and_versions_apart(tmp_path):
    database = TuningDatabase.open(tmp_path / "db.jsonl")
    places = [
        PLACE,
        PLACE.model_copy(update={"machine": "n"}),
        PLACE.model_copy(update={"threads": 1}),
        PLACE.model_copy(update={"versions": {"effc": "2"}}),
        PLACE.model_copy(update={"target": {"cpu": "znver5"}}),
    ]
    keys = [key(place=place) for place in places]
    keys += [key(sizes={"batch": 1}), key(sizes={"batch": 2}), key("other")]
    for number, one in enumerate(keys):
        database.append([entry(number, 1.0, of=one)])
    again = TuningDatabase.open(database.path)
    for number, one in enumerate(keys):
        (found,) = again.lookup(one)
        assert found.schedule == {"rows": number}


def test_only_those_measured_most_often_can_be_best(tmp_path):
    database = TuningDatabase.open(tmp_path / "db.jsonl")
    database.append([entry(1, 1.0), entry(2, 0.2), entry(3, 0.3), entry(4, None)])
    database.append([entry(1, 1.0, 32), entry(2, 0.9, 32), entry(3, 0.8, 32)])
    best = database.best(key())
    assert best is not None
    assert best.schedule == {"rows": 3}


def test_the_first_profile_of_a_model_stays(tmp_path):
    database = TuningDatabase.open(tmp_path / "db.jsonl")
    for seconds in (1.0, 2.0):
        line = Profile(model="m", seconds={"k": seconds}, place=PLACE, sizes={}, when=WHEN)
        database.append([line])
    again = TuningDatabase.open(database.path)
    found = again.profile("m", PLACE, {})
    assert found is not None
    assert found.seconds == {"k": 1.0}
    assert again.profile("m", PLACE, {"batch": 2}) is None
    assert again.profile("n", PLACE, {}) is None


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(0, 10_000), more=st.booleans())
def test_a_file_cut_at_any_byte_holds_all_whole_lines(tmp_path_factory, cut, more):
    path = tmp_path_factory.mktemp("db") / "db.jsonl"
    database = TuningDatabase.open(path)
    database.append([entry(number, 1.0 + number) for number in range(5)])
    content = path.read_bytes()
    cut %= len(content) + 1
    path.write_bytes(content[:cut])
    whole = max(content[:cut].count(b"\n") - 1, 0)
    found = TuningDatabase.open(path)
    assert [e.schedule["rows"] for e in found.lookup(key())] == list(range(whole))
    if more:
        found.append([entry(77, 1.0)])
        rows = [e.schedule["rows"] for e in TuningDatabase.open(path).lookup(key())]
        assert rows == [*range(whole), 77]


@settings(deadline=None, max_examples=60)
@given(content=st.binary(min_size=1, max_size=300))
def test_foreign_files_are_one_clear_error_and_stay(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("db") / "db.jsonl"
    path.write_bytes(content)
    is_beginning = HEADER.startswith(content)
    if is_beginning:
        assert TuningDatabase.open(path).lookup(key()) == ()
        return
    with pytest.raises(UsageError, match="is no tuning database of format 1; move it away"):
        TuningDatabase.open(path)
    with pytest.raises(UsageError, match="is no tuning database"):
        TuningDatabase(path).append([entry(1, 1.0)])
    assert path.read_bytes() == content


@settings(deadline=None, max_examples=60)
@given(line=st.binary(min_size=1, max_size=100).filter(lambda line: b"\n" not in line))
def test_a_damaged_line_is_named(tmp_path_factory, line):
    path = tmp_path_factory.mktemp("db") / "db.jsonl"
    TuningDatabase.open(path).append([entry(1, 1.0)])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UsageError, match="is damaged: line 3 is no measurement; move it away"):
        TuningDatabase.open(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seconds", -1.0), ("seconds", float("nan")), ("rounds", -1)],
)
def test_impossible_measurements_are_damage(tmp_path, field, value):
    path = tmp_path / "db.jsonl"
    good = entry(1, 1.0)
    TuningDatabase.open(path).append([good])
    bad = good.model_copy(update={field: value})
    with path.open("a") as file:
        file.write(bad.model_dump_json() + "\n")
    with pytest.raises(UsageError, match="line 3"):
        TuningDatabase.open(path)


def test_a_folder_in_its_place_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="cannot read the tuning database"):
        TuningDatabase.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        TuningDatabase(tmp_path / "file" / "db.jsonl").append([entry(1, 1.0)])


def _write_many(path: Path, writer: int, count: int) -> None:
    database = TuningDatabase.open(path)
    for number in range(count):
        lines = [entry(number * 10 + part, 1.0, of=key(f"w{writer}")) for part in range(3)]
        database.append(lines)


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path, writers, count = tmp_path / "db.jsonl", 4, 25
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_write_many, args=(path, w, count)) for w in range(writers)]
    for process in running:
        process.start()
    for process in running:
        process.join()
        assert process.exitcode == 0
    database = TuningDatabase.open(path)
    expected = [number * 10 + part for number in range(count) for part in range(3)]
    for writer in range(writers):
        found = database.lookup(key(f"w{writer}"))
        assert [e.schedule["rows"] for e in found] == expected


def test_killed_writers_leave_a_readable_file(tmp_path):
    path = tmp_path / "db.jsonl"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path;"
        "from test_database import _write_many; _write_many(Path(sys.argv[1]), 0, 10**6)"
    )
    for number in range(4):
        command = [sys.executable, "-c", code, str(path), str(HERE)]
        running = subprocess.Popen(command)
        before = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size < before + 4000:
            time.sleep(0.01)
        time.sleep(0.01 * number)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        found = TuningDatabase.open(path).lookup(key("w0"))
        assert len(found) >= 3
    TuningDatabase.open(path).append([entry(5, 1.0, of=key("after"))])
    assert len(TuningDatabase.open(path).lookup(key("after"))) == 1

"""Environment variables."""

from pathlib import Path

import pytest

from effc.ir import options


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("EFFC_CACHE", raising=False)
    assert options.cache_folder() == Path("/somewhere/effc")
    monkeypatch.setenv("EFFC_CACHE", "/elsewhere")
    assert options.cache_folder() == Path("/elsewhere")
    monkeypatch.delenv("EFFC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert options.cache_folder() == Path.home() / ".cache" / "effc"


def test_the_tuning_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    monkeypatch.delenv("EFFC_TUNING", raising=False)
    assert options.tuning_database() == Path("/somewhere/effc/tuning.jsonl")
    monkeypatch.setenv("EFFC_TUNING", "/elsewhere/my.jsonl")
    assert options.tuning_database() == Path("/elsewhere/my.jsonl")
    monkeypatch.delenv("EFFC_TUNING")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert options.tuning_database() == Path.home() / ".local/share/effc/tuning.jsonl"


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EFFC_THREADS", raising=False)
    available = options.default_threads()
    assert available >= 1
    for text, expected in (("3", 3), ("0", available), ("many", available), ("-1", available)):
        monkeypatch.setenv("EFFC_THREADS", text)
        assert options.default_threads() == expected


def test_the_compiler_and_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFC_CC", "")
    monkeypatch.setenv("EFFC_TRACEBACK", "0")
    assert (options.compiler(), options.wants_traceback()) == (None, False)
    monkeypatch.setenv("EFFC_CC", "clang")
    monkeypatch.setenv("EFFC_TRACEBACK", "1")
    assert (options.compiler(), options.wants_traceback()) == ("clang", True)

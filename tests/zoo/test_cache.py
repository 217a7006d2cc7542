import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from zoo import cache


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "network.py"
    path.write_text("width = 3")
    return path


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        time.sleep(0.05)
        return nn.Linear(3, 2)


def test_weights_are_made_once(source):
    make = Maker()
    first = cache.weights("net", [source], make)
    second = cache.weights("net", [source], make)
    assert make.calls == 1
    assert first.keys() == {"weight", "bias"}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_changed_source_makes_new_weights(source):
    make = Maker()
    cache.weights("net", [source], make)
    source.write_text("width = 4")
    cache.weights("net", [source], make)
    assert make.calls == 2


def test_askers_at_once_share_one_training(source):
    make = Maker()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cache.weights("net", [source], make), range(4)))
    assert make.calls == 1
    assert all(torch.equal(weights["weight"], found[0]["weight"]) for weights in found)


def test_failed_training_leaves_no_weights(source):
    def fail():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cache.weights("net", [source], fail)
    assert not list(cache.directory().glob("*.safetensors"))
    assert cache.weights("net", [source], Maker())


def test_nothing_but_weights_and_lock_remains(source):
    cache.weights("net", [source], Maker())
    assert sorted(path.suffix for path in cache.directory().iterdir()) == [".lock", ".safetensors"]

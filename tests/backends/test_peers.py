"""Other runtimes get the same program and inputs, and compute the same."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from effc.backends import peers
from effc.backends.peers import PEERS, export_peer, peer_call, peer_of
from effc.ir.errors import ModelError, UsageError
from effc.ir.program import Program
from effc.ir.testing import EXACT, ROUNDING, assert_close, recorded
from effc.ir.text import fingerprint

NEEDS = {
    "torch": ["torch"],
    "onnxruntime": ["onnxruntime", "onnxscript"],
    "openvino": ["openvino", "onnxscript"],
}


@pytest.fixture(params=list(PEERS))
def peer(request: pytest.FixtureRequest) -> str:
    """Every peer that is installed."""
    for package in NEEDS[request.param]:
        pytest.importorskip(package, reason=f"needs {package}, of the extra [bench]")
    return str(request.param)


def test_every_peer_is_tested() -> None:
    assert set(PEERS) == set(NEEDS) == {"torch", "onnxruntime", "openvino"}


def test_images(peer: str, programs: dict[str, Program], pixels: Tensor) -> None:
    program = programs["float32"]
    call = peer_call(peer, program, {"x": pixels.numpy()}, 2)
    expected = program.run({"x": pixels})["output"]
    for _ in range(2):
        found = call()
        assert list(found) == ["output"]
        assert_close(
            peer, expected, torch.from_numpy(np.array(found["output"])), ROUNDING[torch.float32]
        )


def test_several_inputs_and_outputs_by_name(peer: str, programs: dict[str, Program]) -> None:
    left, right = torch.randn(3, 4), torch.arange(12).view(3, 4)
    inputs = {"left": left.numpy(), "right": right.numpy()}
    found = peer_call(peer, programs["pair"], inputs, 1)()
    assert set(found) == {"scaled", "codes"}
    assert_close("scaled", left * right, torch.from_numpy(np.array(found["scaled"])), EXACT)
    assert_close("codes", right + 1, torch.from_numpy(np.array(found["codes"])), EXACT)


def test_threads_are_what_was_asked_for(programs: dict[str, Program], pixels: Tensor) -> None:
    before = torch.get_num_threads()
    try:
        peer_call("torch", programs["float32"], {"x": pixels.numpy()}, 2)()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_exporting_leaves_the_program_as_it_was(
    peer: str, programs: dict[str, Program], tmp_path: Path
) -> None:
    program = programs["float32"]
    before = fingerprint(program)
    export_peer(PEERS[peer], program, {"x": np.zeros((2, 3, 12, 12), np.float32)}, tmp_path)
    assert fingerprint(program) == before
    assert any(tmp_path.iterdir())


def test_unknown_and_missing_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as caught:
        peer_of("abacus")
    expected = "unknown peer 'abacus'; there are: torch, onnxruntime, openvino"
    assert str(caught.value) == expected
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        peer_of("openvino")
    assert str(caught.value) == "peer openvino needs openvino: pip install effc[bench]"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_models_a_peer_cannot_take(name: str) -> None:
    """There is no ONNX for this operator."""
    pytest.importorskip("onnxscript", reason="needs onnxscript, of the extra [bench]")
    pytest.importorskip(name, reason=f"needs {name}, of the extra [bench]")
    program = recorded(
        lambda x: torch.ops.aten.lgamma.default(x) + torch.special.i1e(x), x=torch.ones(3)
    )
    with pytest.raises(ModelError) as caught:
        peer_call(name, program, {"x": np.ones(3, np.float32)}, 1)
    message = str(caught.value)
    assert message.startswith(f"peer {name} cannot take the model: ")
    assert "\n" not in message


def failing(step: str) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise RuntimeError(f"{step}\nand more")

    return fail


@pytest.mark.parametrize("step", ["export", "opener"])
def test_whatever_a_peer_raises_is_one_line(
    step: str, programs: dict[str, Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(PEERS["torch"], **{step: failing(step)})
    monkeypatch.setitem(peers.PEERS, "torch", broken)
    inputs = {"left": np.ones((1, 4), np.float32), "right": np.ones((1, 4), np.int64)}
    with pytest.raises(ModelError) as caught:
        peer_call("torch", programs["pair"], inputs, 1)
    message = str(caught.value)
    assert message.startswith("peer torch cannot take the model: ")
    assert "\n" not in message

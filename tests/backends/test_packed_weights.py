"""Weights that are stored in fewer bits than kernels read: the same bits, in less room."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from effc.candidate import build_candidate
from effc.codegen.driver.weights import LEAST_NBYTES, Stored, WeightFile
from effc.ir.program import Program
from effc.ir.rewrite import apply
from effc.ir.target import Target
from effc.passes.base import PassContext
from effc.passes.lower.unpack import UnpackWeight
from effc.passes.manager import PassManager

WEIGHTS = "weights.safetensors"


def built(program: Program, folder: Path, x: torch.Tensor) -> tuple[bytes, int, int]:
    """What an artifact computes, how long its weights are, and how much memory it takes."""
    folder.mkdir()
    target = dataclasses.replace(Target.parse("native"), cores=2)
    model = build_candidate("model", program, target, folder, []).model
    found, memory = model(x).numpy().tobytes(), model.memory_nbytes
    model.close()
    return found, (folder / WEIGHTS).stat().st_size, memory


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 7])
def test_packed_and_plain_weights_compute_the_same(
    bits: int, programs: dict[str, Program], tmp_path: Path, pixels: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pipeline = PassManager.parse(f"quantize{{activations=dynamic bits={bits}}}")
    packed = pipeline.run(programs["float32"], PassContext()).program
    assert packed.weight_nbytes < programs["int8"].weight_nbytes
    with monkeypatch.context() as patch:
        patch.setattr("effc.codegen.driver.weights.LEAST_NBYTES", 1)
        found, small, memory = built(packed, tmp_path / "packed", pixels)
        with safe_open(tmp_path / "packed" / WEIGHTS, "numpy") as file:
            texts = list(file.metadata().values())
    assert sum(f" in {bits} bits" in text for text in texts) >= 3
    with monkeypatch.context() as patch:
        patch.setattr("effc.codegen.driver.weights.LEAST_NBYTES", 1 << 30)
        expected, large, mapped = built(packed, tmp_path / "plain", pixels)
    assert found == expected
    assert small < large + (bits == 7)
    assert memory > mapped  # the file, and what it is unpacked to
    plain = packed.clone()
    assert apply(plain, (UnpackWeight(),)).fired["unpack-weight"] == 4
    before, after = (program.run({"x": pixels}) for program in (packed, plain))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "pipeline", ["sparsify-weights{METHOD}", "sparsify-weights{METHOD},quantize{DYNAMIC}",
                 "sparsify-weights{METHOD},quantize{DYNAMIC bits=4}",
                 "sparsify-weights{METHOD},bfloat16"],
)  # fmt: skip
def test_weights_without_their_zeros_compute_the_same(
    pipeline: str, programs: dict[str, Program], tmp_path: Path, pixels: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = {"METHOD": "method=magnitude ratio=0.6", "DYNAMIC": "activations=dynamic"}
    for name, text in words.items():
        pipeline = pipeline.replace(name, text)
    program = PassManager.parse(pipeline).run(programs["float32"], PassContext()).program
    found = {}
    for least, folder in ((1, "packed"), (1 << 30, "plain")):
        with monkeypatch.context() as patch:
            patch.setattr("effc.codegen.driver.weights.LEAST_NBYTES", least)
            found[folder] = built(program, tmp_path / folder, pixels)
    with safe_open(tmp_path / "packed" / WEIGHTS, "numpy") as file:
        assert sum("not zero" in text for text in file.metadata().values()) >= 3
    assert found["packed"][0] == found["plain"][0]
    assert found["packed"][1] < found["plain"][1]


def restored(stored: Stored, content: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What the driver makes of a stored weight."""
    is_kept = np.ones(stored.count, bool)
    if stored.nonzero < stored.count:
        nbytes = -(-stored.count // 8)
        is_kept = np.unpackbits(content[:nbytes], bitorder="little")[: stored.count] == 1
        content = content[nbytes:]
    values = content.view(dtype) if not stored.bits else None
    if values is None:
        single = np.unpackbits(content, bitorder="little")[: stored.nonzero * stored.bits]
        weights = 1 << np.arange(stored.bits)
        values = single.reshape(-1, stored.bits) @ weights - (1 << (stored.bits - 1))
    found = np.zeros(stored.count, dtype)
    found[is_kept] = values
    return found


@given(st.integers(0, 99), st.integers(1, 8), st.integers(LEAST_NBYTES, LEAST_NBYTES + 20),
       st.sampled_from([0.0, 0.1, 0.5, 0.99]))  # fmt: skip
def test_what_is_stored(seed: int, bits: int, count: int, zeros: float) -> None:
    rng, half = np.random.default_rng(seed), 1 << (bits - 1)
    value = rng.integers(-half, half, count).astype(np.int8)
    value[rng.random(count) < zeros] = 0
    value[:2] = -half, half - 1
    stored = Stored.of("weight", value)
    assert stored.bits == (bits if bits < 8 else 0)
    assert stored.has_mask or bits < 3 or zeros < 0.5
    content = stored.content(value)
    assert content.size == stored.nbytes <= stored.room
    np.testing.assert_array_equal(restored(stored, content, value.dtype), value)


@given(st.integers(0, 99), st.sampled_from([np.float32, np.uint16]),
       st.sampled_from([0.0, 0.1, 0.5, 0.99]))  # fmt: skip
def test_what_is_stored_of_floats(seed: int, dtype: type, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    value = (100 * rng.standard_normal((30, 71))).astype(dtype)
    value[rng.random(value.shape) < zeros] = 0
    if dtype is np.float32:
        value[:2] = -0.0
    stored = Stored.of("weight", value)
    assert stored.has_mask == (zeros >= 0.5)
    content = stored.content(value)
    assert content.size == stored.nbytes
    assert restored(stored, content, value.dtype).tobytes() == value.tobytes()
    assert not Stored.of("weight.scales", value).is_packed


def test_other_types_and_small_weights_are_mapped() -> None:
    weights = {
        "small": np.zeros(LEAST_NBYTES - 1, np.int8),
        "bytes": np.zeros(2 * LEAST_NBYTES, np.uint8),
        "words": np.zeros(LEAST_NBYTES, np.int32),
        "narrow": np.tile(np.array([-1, 0, -1, -1], np.int8), LEAST_NBYTES // 4),
    }
    layout = WeightFile.of(weights, b"")
    assert list(layout.unpacked) == ["narrow"]
    assert layout.room == LEAST_NBYTES
    assert layout.nbytes == LEAST_NBYTES + 2 * LEAST_NBYTES + 4 * LEAST_NBYTES + LEAST_NBYTES // 8

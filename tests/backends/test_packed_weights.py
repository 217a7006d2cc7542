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


def built(program: Program, folder: Path, x: torch.Tensor) -> tuple[bytes, int]:
    """What an artifact computes, and how long its weights are."""
    folder.mkdir()
    target = dataclasses.replace(Target.parse("native"), cores=2)
    model = build_candidate("model", program, target, folder, []).model
    found = model(x).numpy().tobytes()
    model.close()
    return found, (folder / WEIGHTS).stat().st_size


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
        found, small = built(packed, tmp_path / "packed", pixels)
        with safe_open(tmp_path / "packed" / WEIGHTS, "numpy") as file:
            texts = list(file.metadata().values())
    assert sum(f" in {bits} bits" in text for text in texts) >= 3
    with monkeypatch.context() as patch:
        patch.setattr("effc.codegen.driver.weights.LEAST_NBYTES", 1 << 30)
        expected, large = built(packed, tmp_path / "plain", pixels)
    assert found == expected
    assert small < large + (bits == 7)
    plain = packed.clone()
    assert apply(plain, (UnpackWeight(),)).fired["unpack-weight"] == 4
    before, after = (program.run({"x": pixels}) for program in (packed, plain))
    assert all(torch.equal(before[name], after[name]) for name in before)


@given(st.integers(0, 99), st.integers(1, 8), st.integers(LEAST_NBYTES, LEAST_NBYTES + 20))
def test_what_is_stored(seed: int, bits: int, count: int) -> None:
    half = 1 << (bits - 1)
    value = np.random.default_rng(seed).integers(-half, half, count).astype(np.int8)
    value[:2] = -half, half - 1
    stored = Stored.of(value)
    assert stored.bits == (bits if bits < 8 else 0)
    content = stored.content(value)
    assert content.size == stored.nbytes <= stored.room
    if stored.bits:
        single = np.unpackbits(content, bitorder="little")[: count * bits].reshape(count, bits)
        codes = (single.astype(np.int64) << np.arange(bits)).sum(1) - half
        np.testing.assert_array_equal(codes, value)


def test_other_types_and_small_weights_are_mapped() -> None:
    weights = {
        "small": np.zeros(LEAST_NBYTES - 1, np.int8),
        "bytes": np.zeros(2 * LEAST_NBYTES, np.uint8),
        "words": np.zeros(LEAST_NBYTES, np.int32),
        "narrow": np.zeros(LEAST_NBYTES, np.int8),
    }
    layout = WeightFile.of(weights, b"")
    assert list(layout.unpacked) == ["narrow"]
    assert layout.room == LEAST_NBYTES
    assert layout.nbytes == LEAST_NBYTES + 2 * LEAST_NBYTES + 4 * LEAST_NBYTES + LEAST_NBYTES // 8

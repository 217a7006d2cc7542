"""Elastic artifacts: one stored weight, every width as if it had been compiled."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import effc
from effc.ir.encoding import pack_codes, unpack_codes
from effc.ir.errors import ArtifactError, UsageError
from effc.passes.base import PassContext
from effc.passes.bits.narrow_weights import NarrowWeights, narrowed
from effc.passes.manager import PassManager

PLAIN = "compile cli_models:classifier --threads 1 --calib cli_models:batches".split()
ELASTIC = [*PLAIN, "-o", "out", "--keep-going", "--elastic", "8,4,3,2"]


@pytest.fixture
def elastic(run, clock):
    run(*ELASTIC).assert_succeeds()
    return effc.Artifact("out")


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_codes_are_rounded_once_more(bits):
    codes = torch.arange(256, dtype=torch.uint8)
    found = narrowed(codes, bits).numpy().astype(int) - 2 ** (bits - 1)
    exact = (np.arange(256) - 128) / 2 ** (8 - bits)
    expected = np.clip(np.floor(exact + 0.5), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    np.testing.assert_array_equal(found, expected)


def test_every_width_computes_what_its_own_program_computes(elastic):
    program, (inputs, outputs) = elastic.program(), elastic.sample()
    (name,) = outputs
    widest = effc.load("out", bits=8).run(inputs)[name]
    np.testing.assert_array_equal(widest, effc.load("out").run(inputs)[name])
    errors = []
    for bits in (4, 3, 2):
        narrow = PassManager((NarrowWeights(bits),)).run(program, PassContext()).program
        tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
        expected = narrow.run(tensors)[name].numpy()
        with effc.load("out", bits=bits) as model:
            found = model.run(inputs)[name]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
            assert model.memory_nbytes < effc.load("out").memory_nbytes
        errors.append(float(np.square(found - widest).sum()))
    assert 0 < errors[0] < errors[2]


def test_stored_once_and_reported(elastic, run):
    files = elastic.manifest.files
    assert {"model-4.so", "model-3.so", "model-2.so", "elastic.json"} <= set(files)
    assert [name for name in files if name.endswith("safetensors")] == ["weights.safetensors"]
    rows = elastic.report["elastic"]
    assert [row["bits"] for row in rows] == [4, 3, 2]
    assert rows[0]["sqnr_db"] > rows[2]["sqnr_db"]
    assert elastic.recipe.elastic == [8, 4, 3, 2]
    assert "quantize-weights{bits=8" in elastic.recipe.passes
    assert "float32[" in run("run", "out", "--bits", "2").assert_succeeds().out
    run("run", "out", "--bits", "5").assert_fails(
        2, "out has no weights of 5 bits; widths are: 4, 3, 2"
    )
    words = ["--data", "cli_models:labelled", "--metric", "top1"]
    for bits in ("0", "4"):
        assert "top1" in run("eval", "out", *words, "--bits", bits).assert_succeeds().out
    run("tune", "out").assert_fails(2, "out is elastic; tune it by compiling it with --tune")


def test_damage_is_found(elastic):
    path = Path("out/elastic.json")
    content = json.loads(path.read_text())
    path.write_text(path.read_text().replace("codes", "nodes"))
    with pytest.raises(ArtifactError, match=r"elastic.json is damaged"):
        effc.load("out", bits=4)
    content["widths"]["4"]["kinds"][0] = "nodes"
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"elastic.json is damaged: it describes no widths"):
        effc.load("out", bits=4, check=False) if path.stat().st_size == 0 else _unchecked()


def _unchecked():
    from effc.backends.tvm_cpu.elastic import width_of

    return width_of(Path("out"), 4)


def test_what_cannot_be_elastic(run, clock, small_artifact):
    with pytest.raises(UsageError, match=r"has no weights of 4 bits; widths are: none; compile it"):
        effc.load(small_artifact, bits=4)
    words = [*PLAIN, "-o", "out", "--elastic"]
    run(*words, "4,2").assert_fails(2, "setting elastic: [4, 2] are no widths; write 8 and fewer")
    run(*words, "8,1").assert_fails(2, "setting elastic: [8, 1]: codes have at least 2 bits")
    run(*words, "eight").assert_fails(2, "--elastic 'eight' are no widths")
    four = [*words, "8,2", "-p", "quantize-weights{bits=4}"]
    run(*four).assert_fails(2, "--elastic found no weights in 8-bit codes of groups")
    run(*words, "8,4", "--target", "eager").assert_fails(2, "eager")


def test_a_pass_of_its_own(elastic):
    with pytest.raises(UsageError, match="bits=9; there are 2 to 8"):
        PassManager((NarrowWeights(9),)).run(elastic.program(), PassContext())
    ctx = PassContext(exclude=("first",))
    report = PassManager((NarrowWeights(4),)).run(elastic.program(), ctx)
    assert set(report.rows[0].notes["layers"]) == {"second", "last"}
    assert report.rows[0].refusals[0]["reason"] == "excluded by the user"
    again = PassManager((NarrowWeights(3),)).run(report.program, PassContext())
    assert set(again.rows[0].notes["layers"]) == {"first"}
    assert again.rows[0].refusals[0]["reason"] == "its codes have 4 bits, not 8"
    codes = torch.randint(0, 16, (3, 40), dtype=torch.uint8)
    assert torch.equal(unpack_codes(pack_codes(codes, 4), 4, 40), codes)

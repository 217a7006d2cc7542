"""Several depths from one file of weights, every one as if it had been compiled."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import effc
from effc.backends.tvm_cpu.depths import depth_file
from effc.ir.errors import ArtifactError, UsageError
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.passes.prune.blocks import PruneBlocks

PLAIN = "compile cli_models:residual --threads 1 --calib cli_models:batches".split()
PASSES = "quantize-weights{bits=8},recover{minutes=0 steps=20 depths=1|3}"
JUDGED = ["--eval", "cli_models:labelled", "--metric", "top1"]
DEEP = [*PLAIN, *JUDGED, "-o", "out", "--keep-going", "-p", PASSES, "--depths", "1,3"]


@pytest.fixture
def deep(run, clock):
    run(*DEEP).assert_succeeds()
    return effc.Artifact("out")


def test_every_depth_computes_what_its_own_program_computes(deep, run):
    program, (inputs, outputs) = deep.program(), deep.sample()
    (name,) = outputs
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    whole = effc.load("out")
    np.testing.assert_array_equal(
        whole.run(inputs)[name], effc.load("out", bits=8).run(inputs)[name]
    )
    nbytes = [whole.memory_nbytes]
    for depth in (3, 1):
        step = PruneBlocks(keep=depth, importance="last")
        short = PassManager((step,)).run(program, PassContext()).program
        with effc.load("out", depth=depth) as model:
            found = model.run(inputs)[name]
            nbytes.append(model.memory_nbytes)
        np.testing.assert_allclose(found, short.run(tensors)[name].numpy(), rtol=1e-4, atol=1e-4)
    assert nbytes[0] > nbytes[1] > nbytes[2]
    files = deep.manifest.files
    assert {"model-depth-1.so", "model-depth-3.so", "depths.json"} <= set(files)
    assert [file for file in files if file.endswith("safetensors")] == ["weights.safetensors"]
    rows = deep.report["depths"]
    assert [row["depth"] for row in rows] == [1, 3]
    assert all("top1" in row["scores"] for row in rows)
    assert "float32[" in run("run", "out", "--depth", "1").assert_succeeds().out
    words = ["eval", "out", "--data", "cli_models:labelled", "--depth", "3"]
    assert "top1" in run(*words).assert_succeeds().out
    run("run", "out", "--depth", "2").assert_fails(2, "out does not run 2 blocks; depths are: 1, 3")
    run("tune", "out").assert_fails(2, "out is elastic; tune it by compiling it with --tune")


def test_damage_is_found(deep):
    path = Path("out/depths.json")
    content = json.loads(path.read_text())
    content["depths"]["1"]["sources"][0] = 999
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"depths.json is damaged: there is no weight 999"):
        depth_file(Path("out"), 1)
    path.write_text("{}")
    with pytest.raises(ArtifactError, match=r"depths.json is damaged: it describes no depths"):
        depth_file(Path("out"), 1)


def test_what_has_no_depths(run, small_artifact):
    with pytest.raises(UsageError, match=r"does not run 2 blocks; depths are: none; compile it"):
        effc.load(small_artifact, depth=2)
    run(*PLAIN, "-o", "out", "--depths", "two").assert_fails(2, "--depths 'two' are no depths")
    for text in ("0", "2,2"):
        refused = run(*PLAIN, "-o", "out", "--depths", text)
        refused.assert_fails(2, "are no depths; write numbers of blocks, as in 2,4")
    words = [*PLAIN, "-o", "out", "--depths", "9", "-p", "remove-dead", "--keep-going"]
    run(*words).assert_fails(2, "prune-blocks: keep=9 of 4 blocks cuts nothing")
    eager = [*PLAIN, "-o", "out", "--depths", "2", "--target", "eager", "--max-size", "1B"]
    run(*eager).assert_fails(2, "--depths for target eager")  # before anything is built

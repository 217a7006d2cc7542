"""Recipes: a file that repeats a compile, and the Python interface beside the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import effc
from effc.api import compile as compile_model
from effc.ir.errors import BudgetError, UsageError
from effc.passes.bits.quantize import Quantize
from effc.recipe import Recipe, make_recipe, parse_rule, read_recipe

COMPILE = "compile cli_models:classifier --threads 1 --calib cli_models:batches".split()
CODE = ("model.so", "weights.safetensors", "effc.h")


def digests(folder):
    files = json.loads((Path(folder) / "manifest.json").read_text())["files"]
    assert set(files) == set(CODE)
    return {name: entry["digest"] for name, entry in files.items()}


def test_a_recipe_repeats_a_compile(run, clock):
    words = ["--set", "last:bits=float", "--seed", "3", "-p", "quantize{static_db=20.0}"]
    run(*COMPILE, *words, "-o", "one").assert_succeeds()
    run("compile", "-c", "one/recipe.yaml", "-o", "two").assert_succeeds()
    assert digests("two") == digests("one")
    first, second = (yaml.safe_load(Path(n, "recipe.yaml").read_text()) for n in ("one", "two"))
    assert second == first
    assert first["set"] == ["last:bits=float"]
    run(*COMPILE, "-o", "three").assert_succeeds()
    assert digests("three") != digests("one")  # the recipe did matter


def test_paths_in_a_recipe_do_not_depend_on_the_folder(run, clock, models, monkeypatch, tmp_path):
    module, example = models.classifier()
    torch.export.save(torch.export.export(module, example), "model.pt2")
    np.savez("data.npz", x=models.rows(1, 24))
    words = "compile model.pt2 --threads 1 --calib data.npz -o one".split()
    run(*words).assert_succeeds()
    assert Recipe(**read_recipe(Path("one/recipe.yaml"))).model == str(Path("model.pt2").resolve())
    one = Path("one").resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run("compile", "-c", one / "recipe.yaml", "-o", "two").assert_succeeds()
    assert digests("two") == digests(one)


def test_the_command_line_wins(run, clock):
    Path("recipe.yaml").write_text(
        "model: cli_models:classifier\nthreads: 2\nexclude: [last]\n"
        "passes: [fold-norms, quantize]\n"
    )
    run("compile", "-c", "recipe.yaml", "--threads", "1", "-o", "out").assert_succeeds()
    found = yaml.safe_load(Path("out/recipe.yaml").read_text())
    assert found["threads"] == 1
    assert found["exclude"] == ["last"]
    assert found["passes"] == "fold-norms,quantize"
    run("compile", "-c", "recipe.yaml", "--exclude", "first", "-o", "out").assert_succeeds()
    assert yaml.safe_load(Path("out/recipe.yaml").read_text())["exclude"] == ["first"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoder.*:bits=8", ("encoder.*", {"bits": "8"})),
        ("a:b:bits=8 group=2", ("a:b", {"bits": "8", "group": "2"})),
        ("a:x=1,y=2", ("a", {"x": "1", "y": "2"})),
    ],
)
def test_rules(text, expected):
    assert parse_rule(text) == expected


def test_recipe_survives_its_text():
    recipe = make_recipe({"model": "m", "sizes": {"batch": 3}, "set": ["a:bits=8"], "seed": 7})
    assert make_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


def test_python_equals_the_command_line(run, clock, models):
    run(*COMPILE, "-o", "one").assert_succeeds()
    module, example = models.classifier()
    artifact = compile_model(
        module, example_inputs=example, calibration=list(models.batches()), threads=1, out="two",
    )  # fmt: skip
    weights = [Path(n, "weights.safetensors").read_bytes() for n in ("one", "two")]
    assert weights[0] == weights[1]
    x = models.rows(5, 1)
    expected = effc.load("one")(x)
    np.testing.assert_array_equal(artifact(x), expected)
    np.testing.assert_array_equal(artifact(torch.from_numpy(x)).numpy(), expected)
    exact = module(torch.from_numpy(x)).detach().numpy()
    assert 0 < np.abs(expected - exact).max() < 0.1 * np.abs(exact).max()
    assert artifact.recipe.objects == ["model", "calib"]
    assert "latency, median" in str(artifact.report)


def test_traced_programs_and_passes_as_objects(clock, models):
    program = effc.trace(*models.classifier())
    assert [spec.name for spec in program.signature.inputs] == ["x"]
    texts = "quantize{activations=dynamic skip_last=true}"
    passes = [Quantize(activations="dynamic", skip_last=True)]
    first = compile_model(program, passes=passes, threads=1, out="one")
    second = compile_model(program, passes=texts, threads=1, out="two")
    assert digests("one") == digests("two")
    assert first.recipe.passes == second.recipe.passes == texts
    (row,) = first.report["passes"]
    assert set(row["notes"]["layers"]) == {"first", "second"}


def test_users_passes(run, clock, models):
    words = ["compile", "cli_models:classifier", "--threads", "1", "-o", "out", "-p"]
    run(*words, "cli_models:ScaleBias{factor=3}").assert_succeeds()
    module, _ = models.classifier()
    x = models.rows(5, 1)
    bias = module.last.bias.detach().numpy()
    expected = module(torch.from_numpy(x)).detach().numpy() + 2 * bias
    np.testing.assert_allclose(effc.load("out")(x), expected, rtol=1e-4, atol=1e-5)
    (row,) = effc.Artifact("out").report["passes"]
    assert row["text"] == "cli_models:ScaleBias{factor=3.0}"
    assert row["notes"] == {"factor": 3.0}
    run("compile", "-c", "out/recipe.yaml", "-o", "again").assert_succeeds()
    assert digests("again") == digests("out")
    artifact = compile_model(
        *[models.classifier()[0]], example_inputs=models.classifier()[1], threads=1, out="objects",
        passes=[models.ScaleBias(3.0)],
    )  # fmt: skip
    np.testing.assert_array_equal(artifact(x), effc.load("out")(x))


def test_metrics_that_return_several_numbers(run, clock):
    words = [*COMPILE, "--eval", "cli_models:labelled", "--metric", "cli_models:margins"]
    ran = run(*words, "-o", "out", "--max-drop", "10pt").assert_succeeds()
    scores = effc.Artifact("out").report["result"]["scores"]
    assert [*scores] == ["right", "count"]
    assert scores["count"] == 64
    assert effc.Artifact("out").report["result"]["quality"] == scores["right"]
    assert "right " in ran.out
    assert "count " in ran.out
    found = run("eval", "out", "--data", "cli_models:labelled", "--metric", "cli_models:margins")
    assert found.assert_succeeds().out == f"right: {scores['right']:.6g}\ncount: 64\n"


def test_evaluate_as_a_function(clock, models):
    x = models.rows(6, 1)
    module, example = models.classifier()
    exact = module(torch.from_numpy(x)).detach().numpy()
    calls = []

    def closeness(model):
        calls.append(model)
        return -float(np.abs(model(x) - exact).max())

    settings = {"example_inputs": example, "evaluate": closeness, "threads": 1}
    artifact = compile_model(module, out="out", max_drop=10.0, **settings)
    assert artifact.report["baseline"]["quality"] == pytest.approx(0, abs=1e-5)
    assert artifact.report["result"]["quality"] == pytest.approx(closeness(artifact), rel=1e-5)
    assert artifact.recipe.objects == ["model", "evaluate"]
    assert artifact.recipe.max_drop == "1000%"
    with pytest.raises(BudgetError, match="kept in out-candidate"):
        compile_model(module, out="out", max_size=0.01, **settings)
    assert effc.load("out")(x).shape == (1, 8)


def test_python_errors(models, clock):
    module, example = models.classifier()
    with pytest.raises(UsageError, match="unknown setting 'treads'"):
        compile_model(module, example_inputs=example, out="out", treads=2)
    with pytest.raises(effc.EffcError, match="example"):
        compile_model(module, out="out")
    with pytest.raises(effc.EffcError, match="holds no data"):
        compile_model(module, example_inputs=example, calibration=[], out="out")
    Path("mine").mkdir()
    Path("mine/thesis").touch()
    with pytest.raises(UsageError, match="no artifact"):
        compile_model(module, example_inputs=example, out="mine")
    assert [path.name for path in Path.cwd().iterdir()] == ["mine"]
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        _ = effc.compil

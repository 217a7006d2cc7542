"""Wrong data, options, patterns and recipes: one line, exit code 2, nothing left behind."""

from pathlib import Path

import numpy as np
import pytest
import yaml

MODEL = "cli_models:classifier"


@pytest.fixture
def refuse(run):
    """`compile` fails with exit code 2 in one line and leaves nothing behind."""

    def check(options, *words):
        before = sorted(Path.cwd().iterdir())
        error = run("compile", MODEL, "-o", "out", *options).assert_fails(2, *words)
        assert sorted(Path.cwd().iterdir()) == before
        return error

    return check


def archive(name, **arrays):
    np.savez(name, **arrays)
    return Path(name)


def x(*shape, value=0.5, dtype=np.float32):
    return np.full(shape, value, dtype)


@pytest.mark.parametrize("option", ["--calib", "--eval"])
@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": x(4, 32, value=np.nan)}, ["data.npz", "x", "128 NaN"]),
        ({"x": x(4, 32, value=np.inf)}, ["data.npz", "x", "128 infinities"]),
        ({"x": x(0, 32)}, ["data.npz", "no data"]),
        ({"y": x(4, 32)}, ["data.npz", "no x", "it holds y"]),
        ({"x": x(4, 31)}, ["data.npz", "31", "32"]),
        ({"x": x(4, 32, 1)}, ["data.npz", "[4, 32, 1]"]),
        ({"x": x(4, 32, dtype=np.int64)}, ["data.npz", "int64", "f32"]),
        ({"x": np.full((4, 32), "a")}, ["data.npz", "x"]),
        ({"x": np.full((4, 32), None)}, ["data.npz"]),
        ({"x": x(4, 32), "labels": np.zeros(3)}, ["data.npz", "3 labels for 4 rows"]),
    ],
)
def test_arrays_that_do_not_fit(refuse, option, arrays, words):
    refuse([option, archive("data.npz", **arrays)], *words)


@pytest.mark.parametrize("option", ["--calib", "--eval"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("cli_models:with_nan", ["with_nan", "NaN"]),
        ("cli_models:nothing", ["nothing holds no data"]),
        ("cli_models:WIDTH", ["int"]),
        ("cli_models:no_such", ["no_such"]),
        ("missing.npz", ["missing.npz does not exist"]),
        ("empty", ["empty holds no .npz"]),
        ("garbage.npz", ["garbage.npz is damaged"]),
        ("garbage.safetensors", ["garbage.safetensors is damaged"]),
        ("cut.npz", ["cut.npz is damaged"]),
        ("words.txt", ["words.txt", "tokenizer"]),
    ],
)
def test_data_that_cannot_be_read(refuse, option, data, words):
    Path("empty").mkdir()
    Path("words.txt").write_text("some words\n")
    for name in ("garbage.npz", "garbage.safetensors"):
        Path(name).write_bytes(b"\x07garbage" * 50)
    whole = archive("cut.npz", x=x(4, 32)).read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    refuse([option, data], *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "pentium"], ["unknown target 'pentium'", "native"]),
        (["--target", "native{l5=3}"], ["no fact 'l5'"]),
        (["--target", "native{l2=much}"], ["l2='much'"]),
        (["--target", "native{"], ["native{"]),
        (["-p", "quantise"], ["unknown pass 'quantise'", "quantize"]),
        (["-p", "quantize{width=3}"], ["no option 'width=3'", "scheme"]),
        (["-p", "quantize{activations=loud}"], ["activations=loud", "dynamic"]),
        (["-p", "quantize{"], ["quantize{"]),
        (["-p", "cli_models:Classifier"], ["not a subclass of effc.Pass"]),
        (["-p", "cli_models:NoPass"], ["NoPass"]),
        (["-p", "no_such_module:Pass"], ["no_such_module"]),
        (["--exclude", "encoder.*"], ["'encoder.*' matches nothing", "first, last, second"]),
        (["--exclude", "encoder.*", "-p", "fold-norms"], ["'encoder.*' matches nothing", "first"]),
        (["--set", "encoder.*:bits=8"], ["'encoder.*' matches nothing", "first"]),
        (["--set", "first"], ["no rule", "pattern:key=value"]),
        (["--set", "first:bits"], ["no rule"]),
        (["--set", "first:bits=9"], ["bits=9"]),
        (["--set", "first:color=red"], ["'color'", "bits"]),
        (["--set", "first:bits=8", "-p", "fold-norms"], ["'bits'", "none"]),
        (["--sizes", "batch=3"], ["no symbolic dimension 'batch'"]),
        (["--metric", "top1"], ["--eval"]),
        (["--max-drop", "1%"], ["--eval"]),
        (["--max-drop", "lots", "--eval", "cli_models:labelled"], ["'lots'", "0.5pt"]),
        (["--max-size", "small"], ["'small'", "25%"]),
        (["--max-size", "-3MB"], ["'-3MB'"]),
        (["--eval", "cli_models:labelled", "--metric", "f2"], ["unknown metric 'f2'", "top1"]),
        (["--eval", "cli_models:labelled", "--metric", "cli_models:WIDTH"], ["not a function"]),
        (["--eval", "cli_models:labelled", "--metric", "cli_models:f2"], ["f2"]),
        (["--eval", "cli_models:batches", "--metric", "top1"], ["labels"]),
        (["--eval", "cli_models:labelled", "--metric", "cli_models:broken"], ["no ground truth"]),
        (["--eval", "cli_models:labelled", "--metric", "cli_models:wordy"], ["not a number"]),
        (["-c", "missing.yaml"], ["missing.yaml", "No such file"]),
    ],
)
def test_names_of_nothing(refuse, options, words):
    refuse(["--target", "eager", *options], *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target: [native", ["no YAML"]),
        ("- native", ["no mapping"]),
        ("", ["no mapping"]),
        ("tarket: native", ["unknown setting 'tarket'", "target"]),
        ("threads: many", ["threads", "many"]),
        ("threads: -1", ["threads", "-1"]),
        ("exclude: first", ["exclude", "first"]),
        ("set: [first]", ["no rule"]),
        ("model: 3", ["model", "3"]),
        ("sizes: {batch: few}", ["sizes", "few"]),
        ("passes: {quantize: 8}", ["passes"]),
        ("keep_going: perhaps", ["keep_going", "perhaps"]),
        ("seed: !!python/object/apply:os.system [touch mark]", ["no YAML"]),
        ("\x00", ["no YAML"]),
    ],
)
def test_recipes(run, text, words):
    Path("recipe.yaml").write_text(text)
    model = [] if "model" in text else [MODEL]
    run("compile", *model, "-c", "recipe.yaml").assert_fails(2, *words)
    assert [path.name for path in Path.cwd().iterdir()] == ["recipe.yaml"]


def test_recipe_that_is_no_text(run):
    Path("recipe.yaml").write_bytes(b"\xff\xfe\x00\x80")
    run("compile", MODEL, "-c", "recipe.yaml").assert_fails(2, "recipe.yaml")


def test_recipe_of_objects_names_what_it_lacks(run, tmp_path):
    content = {"model": "", "objects": ["model", "calib"]}
    Path("recipe.yaml").write_text(yaml.safe_dump(content))
    run("compile", "-c", "recipe.yaml").assert_fails(2, "objects for model, calib")
    run("compile", MODEL, "-c", "recipe.yaml").assert_fails(2, "objects for calib")


def test_failing_pass_is_named(run):
    ran = run("compile", MODEL, "-p", "cli_models:Failing", "--target", "eager")
    ran.assert_fails(1, "cli_models:Failing", "nobody tested this")


@pytest.mark.parametrize("name", ["--exclude", "--set"])
def test_opt_checks_patterns_too(run, name):
    rule = ["encoder.*:bits=8" if name == "--set" else "encoder.*"]
    run("opt", MODEL, "-p", "quantize", name, *rule).assert_fails(2, "matches nothing")
    if name == "--exclude":
        run("opt", MODEL, "-p", "fold-norms", name, *rule).assert_fails(2, "matches nothing")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--input", "missing.npz"], "missing.npz"),
        (["--input", "cut.npz"], "cut.npz"),
        (["--input", "other.npz"], "x"),
        (["--input", "shape.npz"], "31"),
        (["--input", "dtype.npz"], "float64"),
        (["--input", "more.npz"], "z"),
        (["--input", "objects.npz"], "objects.npz"),
        (["-o", "no/such/folder/y.npz"], "no/such/folder/y.npz"),
    ],
)
def test_inputs_of_run(run, small_artifact, words, reason):
    whole = archive("good.npz", x=x(1, 32)).read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    archive("other.npz", y=x(1, 32))
    archive("shape.npz", x=x(1, 31))
    archive("dtype.npz", x=x(1, 32, dtype=np.float64))
    archive("more.npz", x=x(1, 32), z=x(1))
    archive("objects.npz", x=np.full((1, 32), None))
    assert "float32[1, 8]" in run("run", small_artifact, "--input", "good.npz").out
    error = run("run", small_artifact, *words).assert_fails(2, reason)
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["run", "bench", "explain", "report"])
@pytest.mark.parametrize("place", ["missing", "empty", "file"])
def test_what_is_no_artifact(run, command, place):
    Path("empty").mkdir()
    Path("file").write_text("hello")
    run(command, place).assert_fails(2, place, "no artifact")


def test_peers_and_sizes_of_bench(run, small_artifact):
    run("bench", small_artifact, "--peers", "tflight").assert_fails(2, "'tflight'", "onnxruntime")
    run("bench", small_artifact, "--sizes", "batch=2").assert_fails(2, "'batch'")
    other = run("bench", small_artifact, "--against", "cli_models:spectrum")
    other.assert_fails(2, "spectrum cannot run", "[1, 32]", "f32[4, 8]")

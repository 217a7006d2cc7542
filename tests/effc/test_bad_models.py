"""Models that cannot be read: one line, exit code 2, nothing left behind."""

import json
import pickle
from pathlib import Path
from types import ModuleType

import pytest
import torch

from effc.cli import main

INPUT = "x:float32[1,32]"


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.path, "boom")


@pytest.fixture
def exported(tmp_path: Path, models: ModuleType) -> Path:
    module, example = models.classifier()
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(module, example), path)
    return path


@pytest.fixture
def scripted(tmp_path: Path, models: ModuleType) -> Path:
    module, example = models.classifier()
    path = tmp_path / "script.pt"
    torch.jit.trace(module, example).save(str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with a small BERT."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def refuse(run):
    """Every command that reads a model fails in one line and leaves nothing behind."""

    def check(model, *words, options=()):
        for command in (["compile", model, "-o", "out"], ["inspect", model]):
            error = run(*command, *options).assert_fails(2, *words)
            assert list(Path.cwd().iterdir()) == []
        return error

    return check


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def test_the_whole_files_are_good(exported, scripted, folder, run):
    assert run("inspect", exported).assert_succeeds()
    assert run("inspect", scripted, "--input", INPUT).assert_succeeds()
    assert run("inspect", folder).assert_succeeds()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_archives(exported, scripted, refuse, share):
    for path, options in ((exported, []), (scripted, ["--input", INPUT])):
        error = refuse(cut(path, share), path.name, options=options)
        assert "empty" in error or "truncated" in error


def test_garbage(tmp_path, refuse):
    for name in ("model.pt2", "model.pt", "model.onnx", "model.bin"):
        (tmp_path / name).write_bytes(b"\x00garbage" * 100)
        refuse(tmp_path / name, name)


def test_flipped_bytes_never_crash(exported, run):
    content = exported.read_bytes()
    for position in range(40, len(content), len(content) // 12):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        exported.write_bytes(bytes(damaged))
        ran = run("inspect", exported)
        assert ran.code in (0, 2)  # a weight's value may change unnoticed
        if ran.code:
            assert "model.pt2" in ran.error


def test_damaged_folders(folder, refuse):
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = weights.read_bytes()
    cut(weights, 0.7)
    refuse(folder, "bert", "afetensor")
    weights.write_bytes((1 << 40).to_bytes(8, "little") + whole[8:])
    refuse(folder, "bert", "afetensor")
    weights.unlink()
    refuse(folder, "safetensors")
    weights.write_bytes(whole)
    config.write_text(config.read_text()[:40])
    refuse(folder, "config.json")
    config.write_text(json.dumps({"model_type": "no-such-thing"}))
    refuse(folder, "no-such-thing")
    config.unlink()
    refuse(folder, "config.json")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickles_do_not_run(tmp_path, refuse, protocol):
    mark = tmp_path / "mark"
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Bomb(mark), protocol))
    torch.save(Bomb(mark), tmp_path / "new.pt", pickle_protocol=max(protocol, 2))
    for name in ("old.pt", "new.pt"):
        refuse(tmp_path / name, name, options=["--input", INPUT])
        assert not mark.exists()


def test_pickled_modules_need_trust(tmp_path, run, refuse, models):
    torch.save(models.Classifier().eval(), tmp_path / "module.pt")
    refuse(tmp_path / "module.pt", "--trust-pickle", options=["--input", INPUT])
    trusted = ["inspect", tmp_path / "module.pt", "--trust-pickle", "--input", INPUT]
    assert "parameters" in run(*trusted).assert_succeeds().out


def test_a_state_dict_says_what_is_missing(tmp_path, refuse, models):
    torch.save(models.Classifier().state_dict(), tmp_path / "weights.pt")
    error = refuse(tmp_path / "weights.pt", "weights.pt", options=["--input", INPUT])
    assert "package.module:factory" in error


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("no/such/file.pt2", "no/such/file.pt2"),
        ("no_such_module:net", "no_such_module"),
        ("cli_models:no_such_net", "no_such_net"),
        ("cli_models:WIDTH", "cli_models:WIDTH"),
        ("cli_models", "cli_models"),
        ("", ""),
    ],
)
def test_names_of_nothing(refuse, model, reason):
    refuse(model, reason)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["y:float32[1,32]"], ["y", "x"]),
        (["x:float33[1,32]"], ["float33"]),
        (["x:float32[1,31]"], ["31"]),
        (["x:float32[32,1]"], ["x"]),
        (["x:float32[1,32"], ["x:float32[1,32"]),
        (["x:float32[-1,32]"], ["-1"]),
        (["x:float32[batch=8..1,32]"], ["batch"]),
        (["x"], ["x"]),
        (["x:float32[1,32]", "x:float32[1,32]"], ["x"]),
        (["x:float32[1,32]", "z:float32[1]"], ["z"]),
    ],
)
def test_wrong_descriptions_of_inputs(refuse, given, words):
    options = [part for one in given for part in ("--input", one)]
    refuse("cli_models:classifier", *words, options=options)


def test_a_module_that_exits_is_an_error(tmp_path, run):
    Path("leaving.py").write_text("import sys\nsys.exit(0)\n")
    error = run("inspect", "leaving:net").assert_fails(2)
    assert "sys.exit(0)" in error


def test_traceback_is_for_developers(monkeypatch):
    monkeypatch.setenv("EFFC_TRACEBACK", "1")
    with pytest.raises(Exception, match="no_such_module"):
        main(["inspect", "no_such_module:net"])

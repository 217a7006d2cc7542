"""No file runs code when it is opened; each way of carrying code is refused or has no effect."""

import io
import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from effc.ir.errors import EffcError, ModelError, UnsupportedError
from effc.ir.trace import open_model

WAYS = (
    "sample inputs",
    "pickled weight",
    "opaque constant",
    "pickled constant",
    "legacy weights",
    "size",
    "guard",
    "input name",
    "default factory",
    "enum",
)
HARMLESS = ("default factory", "enum")  # containers are read as plain ones, without an import
REFUSED = "is refused, since loading it could run code: "
Rewrite = Callable[..., Path]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def hostile(marker: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(marker.parent))
    import hostile as ways

    return ways


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        open_model(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path} ")


@pytest.mark.parametrize("way", WAYS)
def test_archives_do_not_run_code(way: str, hostile: Any, marker: Path, rewrite: Rewrite) -> None:
    path = rewrite(**hostile.changes(marker, marker.parent)[way])
    if way in HARMLESS:
        program = open_model(path)
        program.run({"x": torch.ones(3, 4)})
    else:
        assert refusal(path).startswith(REFUSED)
    assert not marker.exists()


@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="written against torch 2.13")
def test_the_archives_are_hostile(
    hostile: Any, marker: Path, rewrite: Rewrite, tmp_path: Path
) -> None:
    archives = []
    for way, change in hostile.changes(marker, tmp_path).items():
        archives.append(rewrite(**change).rename(tmp_path / f"{way}.pt2"))
    done = subprocess.run(
        [sys.executable, hostile.__file__, str(marker), *map(str, archives)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.splitlines()) == set(WAYS)


def first_node(document: dict[str, Any]) -> dict[str, Any]:
    return document["graph_module"]["graph"]["nodes"][0]


def signature(document: dict[str, Any]) -> dict[str, Any]:
    return document["graph_module"]["module_call_graph"][0]["signature"]


def set_target(target: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: first_node(document).update(target=target)


def keyword_injection(document: dict[str, Any]) -> None:
    spec = json.loads(signature(document)["in_spec"])
    arguments, keywords = spec[1]["children_spec"]
    keywords["children_spec"] = arguments["children_spec"]
    keywords["context"] = json.dumps(["x=print()"])
    arguments["children_spec"] = []
    signature(document).update(in_spec=json.dumps(spec), forward_arg_names=None)


def weight_name(document: dict[str, Any]) -> None:
    specs = document["graph_module"]["signature"]["input_specs"]
    specs[0]["parameter"]["parameter_name"] = 'layer"+str(open("x"))+".weight'


def operator_argument(document: dict[str, Any]) -> None:
    first_node(document)["inputs"][0]["arg"] = {"as_operator": "torch.hub.load"}


def custom_object(document: dict[str, Any]) -> None:
    first_node(document)["inputs"][0]["arg"] = {"as_custom_obj": {"name": "o", "class_fqn": "c"}}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_target("torch.serialization.os.system"), "a call of torch.serialization.os.system"),
        (set_target("torch.ops.aten.from_file.default"), "a call of torch.ops.aten.from_file"),
        (set_target("torch.ops.prim.Print.default"), "a call of torch.ops.prim.Print.default"),
        (set_target("_operator.methodcaller"), "a call of _operator.methodcaller"),
        (set_target("#extension:name"), "a call of #extension:name"),
        (operator_argument, "a call of torch.hub.load, which is not an operator"),
        (custom_object, "a custom object"),
        (weight_name, "a weight name that is not a path: "),
        (
            lambda j: signature(j).update(forward_arg_names=["x, y=print()"]),
            "a parameter that is not a name: x, y=print()",
        ),
        (
            lambda j: j["range_constraints"].update({"s77); print(": {"min_val": 1, "max_val": 2}}),
            "a symbol that is not a name: s77); print(",
        ),
    ],
)
def test_descriptions_that_reach_the_interpreter(
    edit: Callable[[dict[str, Any]], None], message: str, rewrite: Rewrite
) -> None:
    assert refusal(rewrite(edit)).startswith(REFUSED + message)


def test_keyword_names_in_old_archives(rewrite: Rewrite) -> None:
    assert refusal(rewrite(keyword_injection)) == (
        "is a damaged torch.export archive: a parameter that is not a name: x=print()"
    )


def test_native_code(rewrite: Rewrite) -> None:
    path = rewrite(members={"data/aotinductor/model/a.so": b"\x7fELF"})
    assert refusal(path) == REFUSED + "native code (data/aotinductor)"


def test_only_the_first_reasons_are_shown(rewrite: Rewrite) -> None:
    path = rewrite(lambda j: j.update(guards_code=["a()", "b()", "c()", "d()", "e()"]))
    reasons = [f"a guard that is not a comparison of sizes: {name}()" for name in "abc"]
    assert refusal(path) == REFUSED + "; ".join(reasons) + "; and 2 more"


def test_a_member_that_occurs_twice(saved_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.pt2"
    path.write_bytes(saved_model.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/models/model.json", b"{}")
    expected = "holds models/model.json twice, so it is unclear which one counts"
    assert refusal(path) == expected


def test_compressed_members(saved_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.pt2"
    with (
        zipfile.ZipFile(saved_model) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    assert refusal(path) == "is compressed or encrypted; use torch.export.save again"


def test_the_old_format(tmp_path: Path, hostile: Any, marker: Path) -> None:
    path = tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", b"{}")
        archive.writestr("serialized_state_dict.pt", hostile.torch_pickle(marker))
        archive.writestr("version", b"8.1")
    assert refusal(path) == (
        "is a torch.export archive in the format of torch 2.7 and older; save it again with "
        "torch.export.save of torch 2.8 or newer"
    )
    assert not marker.exists()


def test_operators_nobody_registers_are_all_listed(rewrite: Rewrite) -> None:
    def edit(document: dict[str, Any]) -> None:
        nodes = document["graph_module"]["graph"]["nodes"]
        nodes[0]["target"] = "torch.ops.mine.first.default"
        nodes[1]["target"] = "torch.ops.mine.second.default"

    with pytest.raises(UnsupportedError) as caught:
        open_model(rewrite(edit))
    listed = [(entry.op, entry.source) for entry in caught.value.operators]
    assert listed == [("mine.first.default", "layer"), ("mine.second.default", "")]
    assert "import the one that does before loading" in str(caught.value)


def test_pickles_are_refused_without_trust(tmp_path: Path, hostile: Any, marker: Path) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(hostile.torch_pickle(marker))
    assert refusal(path) == (
        "is a pickled module that imports io.open and can run any code when loaded; pass "
        "--trust-pickle if you trust its source, or save the model with torch.export.save"
    )
    torch.save(hostile.Opens(marker), path, _use_new_zipfile_serialization=False)
    assert "is a pickled module that imports io.open" in refusal(path)
    path.write_bytes(pickle.dumps(hostile.Opens(marker)))
    assert "is a pickle not written by torch.save; it runs code when loaded" in refusal(path)
    assert not marker.exists()


def test_a_trusted_pickle_is_loaded(tmp_path: Path, hostile: Any, marker: Path) -> None:
    path = tmp_path / "trusted.pt"
    path.write_bytes(hostile.torch_pickle(marker))
    with pytest.raises(EffcError, match="holds a TextIOWrapper, not a module"):
        open_model(path, trust_pickle=True)
    assert marker.exists()


def test_weights_of_a_hugging_face_folder(tmp_path: Path, hostile: Any, marker: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    weights = tmp_path / "pytorch_model.bin"
    weights.write_bytes(hostile.torch_pickle(marker))
    with pytest.raises(ModelError) as caught:
        open_model(tmp_path)
    expected = f"{weights} is a pickled module, not plain weights; use safetensors"
    assert str(caught.value) == expected
    assert not marker.exists()


def test_code_in_a_hugging_face_folder(tmp_path: Path, marker: Path) -> None:
    config = {
        "architectures": ["EvilModel"],
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(ModelError, match="has no architecture EvilModel, and effc runs no code"):
        open_model(tmp_path)
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot load the model in"):
        open_model(tmp_path)
    assert not marker.exists()


def test_torchscript_that_writes_files(tmp_path: Path, marker: Path) -> None:
    class Writes(torch.nn.Module):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, self.path)
            return x

    path = tmp_path / "writes.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Writes(str(marker))).save(str(path))
    message = refusal(path, inputs=["x:f32[2]"])
    assert message.startswith("is refused, since it touches files when run: ")
    assert not marker.exists()


def test_sample_inputs_that_are_not_tensors(rewrite: Rewrite) -> None:
    buffer = io.BytesIO()
    torch.save(((pytest.approx,), {}), buffer)
    path = rewrite(members={"data/sample_inputs/model.pt": buffer.getvalue()})
    assert refusal(path) == REFUSED + "pickled objects among its sample inputs"

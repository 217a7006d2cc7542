"""Real networks, the whole way: compile, run, evaluate, explain, report, measure."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import effc
from effc import cli
from zoo import digits, images
from zoo.networks import DepthwiseCnn, ResidualCnn, VisionTransformer

INPUT = "x:float32[batch=1..64,1,16,16]"
SAMPLES = 540
CLASSES = {
    "residual_cnn": ResidualCnn, "depthwise_cnn": DepthwiseCnn, "vit": VisionTransformer
}  # fmt: skip
LARGEST_SHARE = {"residual_cnn": 0.30, "depthwise_cnn": 0.55, "vit": 0.36}
"""Bytes of weights against float32: codes are padded to register tiles, tensors to 64 bytes."""
UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


@pytest.fixture(scope="module", params=CLASSES)
def network(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def compiled(network: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in int8, with calibration and evaluation data and a budget."""
    folder = tmp_path_factory.mktemp(network)
    words = f"""compile zoo.digits:{network} -o {folder}/out --threads 1 --input {INPUT}
        --calib zoo.digits:calibration --eval zoo.digits:evaluation --metric zoo.metric:accuracy
        --max-drop 1pt --max-size 95% --keep-going"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFC_CACHE", str(folder / "cache"))
        assert cli.main(words.split()) == 0
    return folder / "out"


@pytest.fixture
def report(compiled: Path) -> dict[str, Any]:
    return json.loads((compiled / "report.json").read_text())


def accuracy_of(model: Any) -> float:
    _, test = images.load()
    right = 0
    for start in range(0, SAMPLES, 60):
        part = slice(start, start + 60)
        right += int((model(test.x[part]).argmax(-1) == test.labels[part]).sum())
    return right / SAMPLES


def test_accuracy_is_within_a_point(network, compiled, report):
    module, _ = getattr(digits, network)()
    before = digits.measure(module)
    with effc.load(compiled) as model:
        after = accuracy_of(model)
    assert after >= before - 0.01
    assert report["baseline"]["scores"] == {"zoo.metric:accuracy": pytest.approx(before)}
    assert report["result"]["scores"] == {"zoo.metric:accuracy": pytest.approx(after)}
    assert report["verdict"]["breaks_budget"] is False


def test_every_layer_is_quantized(network, compiled, report):
    module, _ = getattr(digits, network)()
    layers = {n for n, m in module.named_modules() if type(m).__name__ in ("Linear", "Conv2d")}
    (row,) = [row for row in report["passes"] if row["text"] == "quantize"]
    notes = row["notes"]["layers"]
    assert layers <= set(notes)
    assert all("int8" in notes[layer]["weight"] for layer in layers)
    assert all(notes[layer]["output_sqnr_db"] > 25 for layer in layers)


def test_size(network, compiled, report):
    parameters = sum(p.numel() for p in CLASSES[network]().parameters())
    weights = (compiled / "weights.safetensors").stat().st_size
    assert weights <= LARGEST_SHARE[network] * 4 * parameters
    shipped = ["manifest.json", "model.so", "weights.safetensors", "effc.h"]
    nbytes = sum((compiled / name).stat().st_size for name in shipped)
    assert abs(report["result"]["size_nbytes"] - nbytes) < 400  # the digests of the records
    assert effc.Artifact(compiled).size_nbytes == nbytes


def test_the_folder_is_complete(network, compiled, report):
    files = {path.name for path in compiled.iterdir()}
    assert files == {
        "README.md", "effc.h", "manifest.json", "model.so", "program.pt2", "recipe.yaml",
        "report.json", "sample.npz", "weights.safetensors",
    }  # fmt: skip
    assert "dimension `batch=1..64`" in (compiled / "README.md").read_text()
    recipe = yaml.safe_load((compiled / "recipe.yaml").read_text())
    assert recipe["model"] == f"zoo.digits:{network}"
    assert recipe["max_drop"] == "1pt"
    assert recipe == report["recipe"]
    sample = np.load(compiled / "sample.npz")
    assert sample["input.x"].shape == (1, 1, 16, 16)
    manifest = json.loads((compiled / "manifest.json").read_text())
    assert manifest["inputs"] == [
        {"name": "x", "dtype": "f32", "shape": ["batch", "1", "16", "16"]}
    ]


def test_run(compiled, run, tmp_path):
    ran = run("run", compiled, "-o", tmp_path / "y.npz").assert_succeeds()
    assert "the sample's outputs are as expected" in ran.out
    sample, found = np.load(compiled / "sample.npz"), np.load(tmp_path / "y.npz")
    (name,) = found.files
    expected = sample[f"output.{name}"]
    assert np.linalg.norm(found[name] - expected) < 0.03 * np.linalg.norm(expected)


def test_eval_agrees(network, compiled, run):
    words = ["--data", "zoo.digits:evaluation", "--json", "--metric"]
    module, _ = getattr(digits, network)()
    with effc.load(compiled) as model:
        after = accuracy_of(model)
    found = run("eval", compiled, *words, "zoo.metric:accuracy").assert_succeeds().json
    assert found["value"] == pytest.approx(after)
    found = run("eval", compiled, *words, "top1").assert_succeeds().json
    assert found == {
        "metric": "top1", "better": "higher", "value": pytest.approx(after),
        "scores": {"top1": pytest.approx(after)},
    }  # fmt: skip
    model = ["zoo.digits:" + network, "--input", INPUT]
    found = run("eval", *model, *words, "top1").assert_succeeds().json
    assert found["value"] == pytest.approx(digits.measure(module))
    cosine = run("eval", compiled, *words, "cosine").assert_succeeds().json["value"]
    assert 0.99 < cosine < 1
    run("eval", *model, *words, "cosine").assert_fails(2, "evaluate an artifact")


def test_explain(network, compiled, report, run):
    facts = run("explain", compiled, "--json").assert_succeeds().json
    assert len(facts["most_sensitive"]) == 5
    layers = facts["layers"].items()
    ratios = {name: n["output_sqnr_db"] for name, n in layers if "output_sqnr_db" in n}
    assert facts["most_sensitive"][0] == min(ratios, key=ratios.__getitem__)
    assert 0.3 < sum(notes["time_share"] for notes in facts["layers"].values()) <= 1.001
    text = run("explain", compiled).assert_succeeds().out
    assert f'--exclude "{facts["most_sensitive"][0]}"' in text
    one = run("explain", compiled, "classifier", "--json").assert_succeeds().json
    assert [*one["layers"]] == ["classifier"]
    run("explain", compiled, "claßifier").assert_fails(2, "matches nothing; layers are")


class Page(HTMLParser):
    """The headings of a page and the cells of the table below each."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.widths: list[float] = []
        self.tags: set[str] = set()
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._inside = tag
        table = [*self.tables.values()][-1] if self.tables else []
        if tag == "tr":
            table.append([])
        elif tag in ("td", "th"):
            table[-1].append("")
        elif style := dict(attrs).get("style"):
            self.widths.append(float(re.fullmatch(r"width:([\d.]+)%", style)[1]))

    def handle_data(self, data: str) -> None:
        if self._inside == "h2":
            self.tables[data] = []
        elif self._inside in ("td", "th", "code"):
            [*self.tables.values()][-1][-1][-1] += data


def amount(text: str) -> float:
    number, _, unit = text.partition(" ")
    return float(number) * UNITS[unit]


def test_page(compiled, report, run, tmp_path):
    run("report", compiled, "--html", tmp_path / "page.html").assert_succeeds()
    page = Page()
    page.feed((tmp_path / "page.html").read_text())
    assert page.tags & {"script", "link", "img"} == set()
    rows = {row[0]: row[1:] for row in page.tables["Baseline and result"][1:]}
    for column, side in enumerate(("baseline", "result")):
        found = report[side]
        accuracy = found["scores"]["zoo.metric:accuracy"]
        assert float(rows["zoo.metric:accuracy"][column]) == pytest.approx(accuracy, abs=1e-4)
        for label, value in (
            ("latency, median", found["latency"]["median"]),
            ("load", found["start"]["load"]),
            ("first run", found["start"]["first"]),
            ("size on disk", found["size_nbytes"]),
            ("peak memory", found["memory_nbytes"]),
        ):
            assert amount(rows[label][column]) == pytest.approx(value, rel=0.06), label
    layers = report["passes"][-1]["notes"]["layers"]
    shown = page.tables["Signal to noise of each layer's format"][1:]
    measured = {name: n["output_sqnr_db"] for name, n in layers.items() if "output_sqnr_db" in n}
    assert {row[0] for row in shown} == set(measured)
    decibels = [float(row[2].removesuffix(" dB")) for row in shown]
    assert decibels == sorted(decibels)
    assert decibels[0] == pytest.approx(min(measured.values()), abs=0.06)
    steps = page.tables["Where the time goes"][1:]
    assert sum(float(row[3].removesuffix("%")) for row in steps) == pytest.approx(100, abs=3)
    assert len(page.tables["Passes"]) - 1 == sum(
        len(report[key]) for key in ("clean", "passes", "lowering")
    )
    assert 0 < min(page.widths) <= max(page.widths) == 100


def test_report_is_drawn_from_the_record(compiled, report, run):
    assert run("report", compiled, "--json").assert_succeeds().json == report
    text = run("report", compiled).assert_succeeds().out
    assert f"{report['result']['scores']['zoo.metric:accuracy']:.4f}" in text
    assert str(effc.Artifact(compiled).report) == text


def test_bench_measures_all_peers(network, compiled, run):
    if network != "depthwise_cnn":
        pytest.skip("one network is enough to know that all peers take part")
    peers = ["--peers", "onnxruntime,openvino,torch", "--rounds", "2", "--json"]
    found = run("bench", compiled, "--against", f"zoo.digits:{network}", *peers).assert_succeeds()
    rows = {row["what"]: row for row in found.json["rows"]}
    assert [*rows] == ["effc", "torch", "onnxruntime", "openvino"]
    assert found.json["notes"] == []
    assert found.json["threads"] == 1
    parameters = sum(p.numel() for p in DepthwiseCnn().parameters())
    for name, row in rows.items():
        assert 0 < row["low"] <= row["median"] <= row["high"], name
        assert row["memory_nbytes"] > 0
        assert min(row["start"].values()) > 0.5 * row["low"], name
        assert name == "effc" or row["size_nbytes"] > 3.5 * parameters
    assert rows["effc"]["size_nbytes"] == effc.Artifact(compiled).size_nbytes
    assert rows["effc"]["memory_nbytes"] < 5e6

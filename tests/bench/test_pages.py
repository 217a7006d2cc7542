"""Which peer a result is compared with, and which bars count as missed."""

import numpy as np
import pytest

from bench import pages
from bench.candidates import _fitted
from bench.models import SUITE
from bench.speed import missed


def row(variant: str, seconds: float, decibel: float = 20.0, **more) -> dict:
    return {
        "model": "ResNet-18", "what": "latency", "variant": variant, "value": seconds,
        "sqnr_db": decibel, "batch": 1, "threads": 2, "limit": 0.001, **more,
    }  # fmt: skip


def test_a_peer_that_is_more_accurate_is_not_compared_with():
    ours = row("effc int8", 2.0, 20.0)
    own = {
        "OpenVINO int8": row("OpenVINO int8", 1.0, 30.0),
        "ONNX Runtime int8 static": row("ONNX Runtime int8 static", 3.0, 20.9),
    }
    names = pages.PRECISIONS["int8"]
    assert pages.best_peer(own, ours, names)["variant"] == "ONNX Runtime int8 static"
    own["ONNX Runtime int8 static"]["sqnr_db"] = 22.0
    assert pages.best_peer(own, ours, names)["variant"] == "OpenVINO int8"  # none is as good
    assert pages.best_peer({}, ours, names) is None


def test_the_table_has_ratios_and_their_geometric_mean():
    rows = []
    for model, ratio in (("A", 2.0), ("B", 8.0)):
        rows += [row("effc int8", 1.0, model=model), row("OpenVINO int8", ratio, model=model)]
    table = pages.peer_table(rows, "int8")
    assert list(table.columns[-1].cells) == ["2.00", "8.00", "4.00"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"effc float32": 2.1}, "float32 is more than 2x"),
        ({"effc int8": 1.1}, "int8 is slower"),
        ({"seconds": 61.0}, "compiling int8 takes 61 s"),
        ({"nbytes": 4 * 10**6 + (1 << 30) + 1}, "compiling int8 takes 1.08 GB"),
    ],
)
def test_missed_bars_are_named(changes, problem):
    speeds = {"effc float32": 1.9, "effc int8": 0.9, "ONNX Runtime float32": 1.0, **changes}
    rows = [row(name, value) for name, value in speeds.items()]
    common = {"model": "ResNet-18", "note": "int8", "batch": 1, "weight_nbytes": 10**6}
    rows.append({"what": "compile time", "value": changes.get("seconds", 59.0), **common})
    rows.append({"what": "compile peak memory", "value": changes.get("nbytes", 10**9), **common})
    found = list(missed(rows))
    assert (problem in found[0]) if problem else found == []


def test_every_model_of_the_suite_can_be_made_at_any_batch_size():
    import bench.models

    for entry in SUITE:
        if entry.factory is not None:
            assert callable(getattr(bench.models, f"{entry.factory}_8"))
    with pytest.raises(AttributeError):
        bench.models.nothing_8  # noqa: B018
    _, (image,) = bench.models.mobilenet_v2_3()
    assert image.shape == (3, 3, 224, 224)
    assert next(bench.models.images_3())["pixel_values"].shape == (3, 3, 224, 224)


def test_data_is_repeated_or_cut_to_the_inputs():
    array = np.arange(6).reshape(2, 3)
    assert _fitted(array, (3, 2)).tolist() == [[0, 1], [3, 4], [0, 1]]

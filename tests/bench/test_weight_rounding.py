"""Tables of the sections on rounding and on 8 bits, from rows made by hand."""

import pytest

from bench import eight_bits, rounding
from effc.passes.registry import parse_pipeline
from effc.tables import render


def perplexity(name: str, bits: int, value: float, nbytes: int) -> dict:
    return {"section": "rounding", "variant": name, "bits": bits, "value": value, "nbytes": nbytes}


ROWS = [
    perplexity("float32", 32, 2.0, 4000),
    perplexity("nearest", 4, 2.1, 500),
    perplexity("GPTQ", 4, 2.03, 500),
    perplexity("HQQ", 4, 2.08, 520),
]


def test_shares_of_the_increase():
    shares = [rounding.share_of(ROWS, row) for row in ROWS]
    assert shares[0] is None
    assert shares[1:] == pytest.approx([1, 0.3, 0.8])
    assert list(rounding.lines_of(ROWS)) == [
        "4 bits, at most half the increase of rounding to nearest: GPTQ"
    ]


def test_the_table_of_rounding():
    text = render(rounding.tables_of(ROWS), 120)
    line = next(line for line in text.splitlines() if "GPTQ" in line)
    assert line.split() == ["GPTQ", "4", "500", "4.00", "2.0300", "0.0300", "0.30"]


def test_every_pipeline_can_be_read():
    names = {way.name for way in rounding.WAYS}
    assert len(names) == len(rounding.WAYS)
    for way, bits in rounding.cases():
        assert parse_pipeline(way.pipeline(bits))[-1].name == "quantize-weights"


def score(model: str, name: str, value: float | None, better: str) -> dict:
    peer = name if name in ("NNCF", "ONNX Runtime static") else None
    return {"section": "eight-bits", "model": model, "variant": name, "value": value,
            "better": better, "metric": "zoo.metric:accuracy", "peer": peer}  # fmt: skip


SCORES = [
    score("net", "float32", 0.90, "higher"),
    score("net", "effc int8", 0.899, "higher"),
    score("net", "NNCF", 0.91, "higher"),
    score("net", "ONNX Runtime static", None, "higher"),
    score("words", "float32", 2.0, "lower"),
    score("words", "effc int8", 2.05, "lower"),
    score("words", "NNCF", 2.06, "lower"),
]


def test_verdicts_on_eight_bits():
    assert list(eight_bits.lines_of(SCORES)) == [
        "net, W8A8: effc loses 0.11%, within 0.5%; the best peer, NNCF (0.9100), is better",
        "words, W8A8: effc loses 2.50%, more than 0.5%; the best peer, NNCF (2.0600), is no better",
    ]


def test_the_table_of_eight_bits():
    text = render(eight_bits.tables_of(SCORES), 120)
    assert "cannot" in text
    line = next(line for line in text.splitlines() if "words" in line)
    assert line.split() == ["words", "accuracy", "2.0000", "2.0500", "2.0600", "2.50%"]

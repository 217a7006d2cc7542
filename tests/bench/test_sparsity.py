"""The page of `make bench-sparsity`: tables, crossovers, what is judged."""

from pathlib import Path

import pytest
import torch

from bench import sparsity
from bench.sparsity import LANES, Row, linear, page_tables, verdicts, ways, write_page
from effc.passes.lower.blocks import density
from effc.passes.registry import parse_pipeline
from effc.tables import render


def quality(table: str, way: str, share: float, value: float) -> Row:
    return {"what": "quality", "table": table, "way": way, "share": share, "value": value,
            "left": 1 - share}  # fmt: skip


def kernel(share: float, gain: float) -> Row:
    return {"what": "kernel", "table": "1x2x3", "way": "int8", "share": share,
            "value": 1e-3 / gain, "left": gain}  # fmt: skip


ROWS = [
    quality("whole", "", 0.0, 2.5), quality("2:4", "wanda", 0.5, 3.5),
    quality("2:4", "sparsegpt", 0.5, 3.25), quality("factors", "low-rank", 0.2, 2.75),
    quality("factors", "low-rank", 0.4, 4.5), kernel(1.0, 1.0), kernel(0.9, 0.8),
    kernel(0.8, 1.01), kernel(0.7, 1.2), kernel(0.5, 1.6), kernel(0.25, 3.0),
]  # fmt: skip


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsity, "PAGE", tmp_path / "page.md")
    tables, lines = page_tables(ROWS), list(verdicts(ROWS))
    write_page(tables, lines)
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# Sparsity and factors\n\n`make bench-sparsity` on ")
    for part in ("2.5 before", "3.25", "4.5", "0.80x", "3.00x", "1.00 ms"):
        assert part in page
    assert lines == ["1x2x3 int8: faster than dense from 70% left",
                     "2:4: sparsegpt loses least, perplexity 3.25"]  # fmt: skip


def test_nowhere_faster_is_said() -> None:
    slow = [kernel(1.0, 1.0), *(kernel(share, 0.9) for share in sparsity.DENSITIES)]
    assert list(verdicts(slow)) == ["1x2x3 int8: faster than dense at no density measured"]
    assert "0.90x" in render(page_tables(slow))


def test_every_way_is_a_pipeline() -> None:
    found = list(ways())
    assert all(len(parse_pipeline(text)) == 1 for *_, text in found)
    assert len({(name, way, share) for name, way, share, _ in found}) == len(found)


def test_linears_have_the_density_asked_for() -> None:
    for share in (0.25, 0.7):
        weight = linear(768, 3072, 4, share).weight.detach()
        assert density(weight.to(torch.float32), None) == pytest.approx(share, abs=0.02)
        assert weight.shape[0] % LANES == 0

"""Instruments: dump, print, stop, cost, comparison."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import recorded
from effc.ir.text import program_text
from effc.passes.instruments import (
    CompareOutputs,
    CostChange,
    Dump,
    Instrument,
    Limit,
    Observer,
    PrintAfter,
    sqnr,
)
from effc.passes.manager import PassManager
from effc.passes.report import PipelineReport

PIPELINE = "canonicalize,fold-identities,fold-constants,fold-norms,remove-dead"
WEIGHT, SCALE = torch.randn(2, 3), torch.rand(2) + 0.5
INPUT = torch.randn(4, 3)


def small() -> Program:
    return recorded(lambda x: functional.linear(x.clone(), WEIGHT) * SCALE, x=INPUT)


def observed(*instruments: Instrument, pipeline: str = PIPELINE) -> PipelineReport:
    return PassManager.parse(pipeline, instruments).run(small())


def test_dump_writes_the_text_after_passes_that_changed_something(tmp_path: Path) -> None:
    report = observed(Dump(tmp_path / "texts"))
    files = sorted((tmp_path / "texts").iterdir())
    assert [file.name for file in files] == ["00-canonicalize.txt", "03-fold-norms.txt"]
    assert files[-1].read_text() == program_text(report.program)


def test_dump_makes_no_folder_for_nothing(tmp_path: Path) -> None:
    observed(Dump(tmp_path / "texts"), pipeline="remove-dead")
    assert not (tmp_path / "texts").exists()


def test_print_after_one_pass() -> None:
    texts: list[str] = []
    report = observed(PrintAfter("fold-norms", texts.append))
    assert texts == [program_text(report.program)]


@pytest.mark.parametrize("count", range(6))
def test_limit_stops(count: int) -> None:
    report = observed(Limit(count))
    assert [row.text for row in report.rows] == PIPELINE.split(",")[:count]


def test_cost_before_and_after() -> None:
    rows = observed(CostChange()).rows
    first, folded = rows[0].measured, rows[3].measured
    assert folded["cost_before"]["macs"] == folded["cost_after"]["macs"] == 4 * 2 * 3
    assert folded["cost_before"]["flops"] == 4 * 2
    assert folded["cost_after"]["flops"] == 0
    assert folded["cost_after"]["weight_nbytes"] == 6 * 4 < first["cost_before"]["weight_nbytes"]


def test_compare_records_the_error_of_passes_that_changed_something() -> None:
    rows = observed(CompareOutputs({"x": INPUT})).rows
    assert rows[0].measured["output_error"] == {"output": {"sqnr_db": float("inf"), "max": 0.0}}
    assert rows[1].measured == {}
    error = rows[3].measured["output_error"]["output"]
    assert error["sqnr_db"] > 120
    assert 0 <= error["max"] < 1e-5


def test_sqnr() -> None:
    signal = torch.tensor([3.0, 4.0])
    assert sqnr(signal, signal) == float("inf")
    assert sqnr(signal, signal + torch.tensor([0.5, 0.0])) == pytest.approx(20.0)
    assert sqnr(torch.zeros(2), torch.ones(2)) == float("-inf")
    assert sqnr(torch.zeros(2), torch.zeros(2)) == float("inf")


def test_an_observer_only_looks() -> None:
    assert observed(Observer()).changed
    assert Observer().wants(0, PassManager.parse("remove-dead").passes[0])

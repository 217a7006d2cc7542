"""Golden texts: a small program, a pipeline line, and the program it gives.

A case is a file `<pass>/<case>.py` with `PIPELINE`, `program()` and, if outputs are rounded,
`TOLERANCE`, `TARGET` if it matters, and `calibration()` where the pass needs data. `pytest
tests/golden --rewrite-golden` writes the texts; review the diff like code.
"""

import re
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import EXACT, assert_same_outputs
from effc.ir.text import program_text
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.passes.registry import PASSES, pass_text

FOLDER = Path(__file__).parent
CASES = sorted(FOLDER.glob("*/*.py"))


def case_id(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    case = run_path(str(path))
    program: Program = case["program"]()
    data = case["calibration"]() if "calibration" in case else None
    ctx = PassContext(
        calibration=data, target=Target.parse(case["TARGET"]) if "TARGET" in case else None
    )
    found, after = text_of(program, case["PIPELINE"], ctx)
    expected = path.with_suffix(".txt")
    if request.config.getoption("--rewrite-golden"):
        expected.write_text(found)
    assert found == expected.read_text()
    assert_same_outputs(program, after, tolerance=case.get("TOLERANCE", EXACT))


@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_case_runs_the_pass_its_folder_is_named_after(path: Path) -> None:
    steps = PassManager.parse(run_path(str(path))["PIPELINE"]).passes
    assert path.parent.name in [pass_text(step).partition("{")[0] for step in steps]


def test_every_clean_pass_has_two_cases() -> None:
    clean = {name for name, where in PASSES.items() if ".passes.clean." in where}
    counts = {name: sum(path.parent.name == name for path in CASES) for name in clean}
    assert {name: count for name, count in counts.items() if count < 2} == {}


def text_of(program: Program, pipeline: str, ctx: PassContext) -> tuple[str, Program]:
    """Both texts with the pipeline between, weights numbered by content, and the program made."""
    report = PassManager.parse(pipeline).run(program, ctx)
    parts = [program_text(program), f"--- {pipeline} ---\n", *refusal_lines(report.rows)]
    return numbered("".join([*parts, program_text(report.program)])), report.program


def refusal_lines(rows: Any) -> list[str]:
    """One line per rule and reason that declined."""
    return [
        f"refused {refusal['rule']} ({refusal['count']}): {refusal['reason']}\n"
        for row in rows
        for refusal in row.refusals
    ]


def numbered(text: str) -> str:
    """Replace hashes of weights by the order they appear in: rounding differs between machines."""
    seen: dict[str, str] = {}
    return re.sub(r"#[0-9a-f]{12}", lambda found: seen.setdefault(found[0], f"#{len(seen)}"), text)

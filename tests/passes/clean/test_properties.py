"""Properties of every clean pass and of the pipeline on random small programs."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from effc.ir.program import Program
from effc.ir.testing import (
    IMAGE_LAYERS,
    ROUNDING,
    ROW_LAYERS,
    assert_same_outputs,
    random_inputs,
    random_program,
)
from effc.ir.text import program_text
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

FEW = settings(
    max_examples=6,
    phases=[Phase.generate],  # shrinking traces hundreds of programs
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def programs(kind: str) -> st.SearchStrategy[Program]:
    names = sorted(IMAGE_LAYERS if kind == "images" else ROW_LAYERS)
    layers = st.lists(st.sampled_from(names), min_size=2, max_size=6)
    return st.builds(random_program, st.just(kind), layers, st.integers(0, 3), st.booleans())


@pytest.mark.parametrize("kind", ["images", "rows"])
def test_clean_keeps_outputs_and_ends(kind: str) -> None:
    @FEW
    @given(programs(kind))
    def check(program: Program) -> None:
        before = program_text(program)
        report = PassManager.parse(CLEAN).run(program)
        assert program_text(program) == before
        inputs = random_inputs(program, {"batch": 3})
        assert_same_outputs(program, report.program, inputs, ROUNDING[torch.float32])
        again = PassManager.parse(CLEAN).run(report.program)
        assert [row.text for row in again.rows if row.changed] == []

    check()


@pytest.mark.parametrize("kind", ["images", "rows"])
def test_every_layer_is_clean_alone(kind: str) -> None:
    layers = IMAGE_LAYERS if kind == "images" else ROW_LAYERS
    program = random_program(kind, sorted(layers), seed=1, is_dynamic=True)
    report = PassManager.parse(CLEAN).run(program)
    for seed, size in enumerate((1, 2, 5)):
        inputs = random_inputs(program, {"batch": size}, seed)
        assert_same_outputs(program, report.program, inputs, ROUNDING[torch.float32])

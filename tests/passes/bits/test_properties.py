"""Random small nets: the pass keeps every rule of a program and stays close to the floats."""

from hypothesis import given, settings
from hypothesis import strategies as st

from effc.ir.testing import IMAGE_LAYERS, ROW_LAYERS, random_inputs, random_program
from effc.ir.text import program_text
from effc.passes.base import PassContext
from effc.passes.bits.quantize import Quantize
from effc.passes.manager import PassManager

NETS = st.one_of(
    st.tuples(
        st.just("images"), st.lists(st.sampled_from(sorted(IMAGE_LAYERS)), min_size=2, max_size=6)
    ),
    st.tuples(
        st.just("rows"), st.lists(st.sampled_from(sorted(ROW_LAYERS)), min_size=2, max_size=6)
    ),
)
MODES = st.sampled_from(["static", "auto", "dynamic"])


@settings(max_examples=12, deadline=None)
@given(NETS, MODES, st.integers(0, 9))
def test_random_nets(net: tuple[str, list[str]], mode: str, seed: int) -> None:
    program = random_program(net[0], net[1], seed, is_dynamic=True)
    data = [random_inputs(program, {"batch": 4}, seed=at) for at in range(2)]
    manager = PassManager((Quantize(activations=mode),))
    report = manager.run(program, PassContext(calibration=data))
    again = manager.run(report.program, PassContext(calibration=data))
    assert not again.changed
    twice = manager.run(program, PassContext(calibration=data))
    assert program_text(twice.program) == program_text(report.program)
    expected, found = program.run(data[0])["output"], report.program.run(data[0])["output"]
    assert found.shape == expected.shape
    assert float((found - expected).norm()) <= 0.15 * float(expected.norm()) + 1e-6

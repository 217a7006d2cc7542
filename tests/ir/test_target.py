"""Targets: names, facts, and the errors of their text form."""

import pytest

from effc.ir.errors import NotAvailableError, TargetError
from effc.ir.target import PLANNED, V3, V4, Target, known_targets


@pytest.mark.parametrize("name", known_targets())
def test_known_targets_parse(name: str) -> None:
    assert Target.parse(name) == known_targets()[name]
    assert str(Target.parse(f" {name} ")) == name


def test_facts_override() -> None:
    target = Target.parse("x86-64-v3{cores=4 l2=512KB l3=2MB vector_bits=128}")
    assert (target.cores, target.l2, target.l3, target.vector_bits) == (4, 512 << 10, 2 << 20, 128)
    assert target.features == V3
    assert Target.parse("x86-64-v3{}") == Target.parse("x86-64-v3")


def test_levels() -> None:
    wide = Target.parse("x86-64-v4")
    assert (wide.vector_bits, wide.vector_registers, wide.features) == (512, 32, V4)
    assert Target.parse("znver4").has("avx512vnni")
    assert not wide.has("avx512vnni")


@pytest.mark.parametrize("name", PLANNED)
def test_planned_targets_say_so(name: str) -> None:
    with pytest.raises(NotAvailableError, match=f"^target {name} is not available yet$"):
        Target.parse(name)


ERRORS = {
    "pdp-11": "unknown target 'pdp-11'; there are: native, x86-64-v3, x86-64-v4, znver4, "
    "sapphirerapids, eager",
    "x86-64-v3{cores}": "target x86-64-v3: cores='' is not a number or size",
    "x86-64-v3{l2=big}": "target x86-64-v3: l2='big' is not a number or size",
    "x86-64-v3{l2=1TB}": "target x86-64-v3: l2='1TB' is not a number or size",
    "x86-64-v3{name=x}": "target x86-64-v3 has no fact 'name'; facts: vector_bits, "
    "vector_registers, cores, l1, l2, l3",
    "x86-64-v3{l2=1KB": "cannot read target 'x86-64-v3{l2=1KB'; write name or name{fact=value ...}",
    "": "cannot read target ''; write name or name{fact=value ...}",
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text: str) -> None:
    with pytest.raises(TargetError) as caught:
        Target.parse(text)
    assert str(caught.value) == ERRORS[text]

"""Targets: names, facts, and the errors of their text form."""

import pytest

from effc.ir.errors import NotAvailableError, TargetError
from effc.ir.target import AMX, PLANNED, V3, V4, Target, known_targets


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


def test_features_are_added_and_named() -> None:
    text = "x86-64-v4{features=avx512bf16+avx512vnni}"
    target = Target.parse(text)
    assert target.features == Target.parse("znver4").features
    assert str(target) == text
    assert Target.parse(str(target)) == target
    same = Target.parse("znver4{features=avx512vnni cores=3}")
    assert (same.features, same.cores) == (target.features, 3)


@pytest.mark.parametrize("feature", AMX)
def test_amx_is_refused(feature: str) -> None:
    """There are no kernels for it, and no machine or emulator here to check them on."""
    message = f"{feature} (kernels use avx512vnni and avx512bf16 instead) is not available yet"
    with pytest.raises(NotAvailableError) as caught:
        Target.parse(f"sapphirerapids{{features={feature}}}")
    assert str(caught.value) == message
    assert not any(feature in target.features for target in known_targets().values())


@pytest.mark.parametrize("name", PLANNED)
def test_planned_targets_say_so(name: str) -> None:
    with pytest.raises(NotAvailableError, match=f"^target {name} is not available yet$"):
        Target.parse(name)


ERRORS = {
    "pdp-11": "unknown target 'pdp-11'; there are: native, x86-64-v3, x86-64-v4, "
    "icelake-server, znver4, sapphirerapids, eager, onnxruntime",
    "x86-64-v3{cores}": "target x86-64-v3: cores='' is not a number or size",
    "x86-64-v3{l2=big}": "target x86-64-v3: l2='big' is not a number or size",
    "x86-64-v3{l2=1TB}": "target x86-64-v3: l2='1TB' is not a number or size",
    "x86-64-v3{name=x}": "target x86-64-v3 has no fact 'name'; facts: features, "
    "vector_bits, vector_registers, cores, l1, l2, l3",
    "x86-64-v4{features=avx10}": "target x86-64-v4 has no feature 'avx10' to add; there are: "
    "avx512vnni, avx512bf16",
    "x86-64-v4{features=}": "target x86-64-v4 has no feature '' to add; there are: "
    "avx512vnni, avx512bf16",
    "x86-64-v3{features=avx512vnni}": "target x86-64-v3: avx512vnni needs x86-64-v4",
    "x86-64-v3{l2=1KB": "cannot read target 'x86-64-v3{l2=1KB'; write name or name{fact=value ...}",
    "": "cannot read target ''; write name or name{fact=value ...}",
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text: str) -> None:
    with pytest.raises(TargetError) as caught:
        Target.parse(text)
    assert str(caught.value) == ERRORS[text]

"""Measured limits of the machine: plausible ratios, and kernels that do what they count."""

import subprocess

import pytest

from effc.backends.tvm_cpu.peaks import Peaks, measured_peaks
from effc.codegen import peaks
from effc.codegen.isa import Isa
from effc.codegen.objects import write_object
from effc.ir.target import Target


def test_narrow_products_are_faster_than_wide_ones():
    target = Target.parse("native")
    found = measured_peaks(target, 1)
    ratio = 1.5 if Isa.of(target).has_vnni else 0.5  # without the instruction a sum takes two
    assert found.macs["int8"] > ratio * found.macs["float32"]
    assert found.macs["float32"] > 1e9
    assert found.reading > 1e8


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4", "sapphirerapids"])
@pytest.mark.parametrize("precision", ["int8", "float32", "bfloat16"])
def test_the_loop_holds_one_multiplication_per_accumulator(target, precision, tmp_path):
    """None was hoisted out of the loop, or shared by accumulators."""
    wanted = Target.parse(target)
    isa = Isa.of(wanted)
    if precision == "bfloat16" and not isa.has_bfloat16:
        pytest.skip("the target has no products of bfloat16")
    write_object([peaks.product_stage(isa, precision, "peak")], wanted, tmp_path / "k.o")
    command = ["objdump", "-d", str(tmp_path / "k.o")]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {
        "int8": "vpdpbusd" if isa.has_vnni else "vpmaddwd",
        "float32": "vfmadd",
        "bfloat16": "vdpbf16ps",
    }
    count = sum(names[precision] in line for line in code.splitlines())
    assert count > 0
    assert count % peaks.accumulators(isa) == 0


def test_the_roofline_is_the_larger_of_both_times():
    limits = Peaks({"int8": 100.0, "float32": 10.0}, 5.0)
    assert limits.seconds(1000, 10, "int8") == 10.0
    assert limits.seconds(1000, 10, "float32") == 100.0
    assert limits.seconds(1000, 1000, "int8") == 200.0
    assert limits.seconds(0, 10, "") == 2.0

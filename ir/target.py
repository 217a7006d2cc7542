"""Targets: what a program is built for, as facts.

A target is data: a name, the backend that builds for it, and facts such as vector width and cache
sizes from which kernels choose their tiles. Facts can be overridden, and instruction sets added, in
the text form: `x86-64-v3{cores=4 l2=512KB}`, `x86-64-v4{features=avx512vnni+avx512bf16}`.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from effc.ir import options
from effc.ir.errors import NotAvailableError, TargetError
from effc.ir.host import host_facts

_TEXT = re.compile(r"(?P<name>[\w.-]+)(?:\{(?P<facts>[^{}]*)\})?")
_AMOUNT = re.compile(r"(?P<number>\d+)(?P<unit>B|KB|MB|GB)?")
_UNITS = {None: 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}

V3 = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "sse4.2", "popcnt")
V4 = (*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
VNNI, BF16 = "avx512vnni", "avx512bf16"
AMX = ("amx-tile", "amx-int8", "amx-bf16")  # for which there are no kernels yet


@dataclass(frozen=True)
class Target:
    """What a program is built for.

    Attributes:
        name: Its name on the command line.
        backend: The backend that builds for it.
        triple: LLVM's target triple.
        cpu: LLVM's name of the processor, for instruction scheduling.
        features: Instruction set extensions the code may use, in LLVM's names.
        vector_bits: Width of a vector register.
        vector_registers: How many of them there are.
        cores: Processors the default run uses.
        l1: Bytes of first-level data cache of a core.
        l2: Bytes of second-level cache of a core.
        l3: Bytes of last-level cache.
    """

    name: str
    backend: str = "tvm_cpu"
    triple: str = "x86_64-linux-gnu"
    cpu: str = "x86-64"
    features: tuple[str, ...] = ()
    vector_bits: int = 128
    vector_registers: int = 16
    cores: int = 1
    l1: int = 32 << 10
    l2: int = 512 << 10
    l3: int = 8 << 20

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read a target's text form.

        Raises:
            TargetError: For an unknown name or fact, or a value that is not a number.
            NotAvailableError: For a target this version cannot build for yet.
        """
        found = _TEXT.fullmatch(text.strip())
        if not found:
            raise TargetError(f"cannot read target {text!r}; write name or name{{fact=value ...}}")
        target = _by_name(found["name"])
        for word in (found["facts"] or "").split():
            key, _, value = word.partition("=")
            change = _with_features if key == "features" else _with_fact
            target = change(target, key, value)
        return target

    def has(self, feature: str) -> bool:
        """Whether code for this target may use an instruction set extension."""
        return feature in self.features

    def __str__(self) -> str:
        return self.name


def _x86(name: str, cpu: str, features: tuple[str, ...], **facts: Any) -> Target:
    wide = "avx512f" in features
    return Target(
        name,
        cpu=cpu,
        features=features,
        vector_bits=512 if wide else 256,
        vector_registers=32 if wide else 16,
        cores=options.default_threads(),
        **facts,
    )


def known_targets() -> dict[str, Target]:
    """Every target this version builds for, by name."""
    zen4 = {"l1": 32 << 10, "l2": 1 << 20, "l3": 32 << 20}
    lake = {"l1": 48 << 10, "l2": 1280 << 10, "l3": 32 << 20}
    rapids = {"l1": 48 << 10, "l2": 2 << 20, "l3": 64 << 20}
    targets = [
        _native(),
        _x86("x86-64-v3", "x86-64-v3", V3),
        _x86("x86-64-v4", "x86-64-v4", V4, l2=1 << 20),
        _x86("icelake-server", "icelake-server", (*V4, VNNI), **lake),
        _x86("znver4", "znver4", (*V4, VNNI, BF16), **zen4),
        _x86("sapphirerapids", "sapphirerapids", (*V4, VNNI, BF16), **rapids),
        Target("eager", backend="eager", triple="", cpu=""),
        Target("onnxruntime", "onnxruntime", "", "", cores=options.default_threads()),
    ]
    return {target.name: target for target in targets}


PLANNED = """
aarch64 cortex-a53 cortex-a72 cortex-a76 armv7 riscv64 cortex-m4 cortex-m7 cortex-m33 cortex-m55
cuda cuda-sm80 cuda-sm90 a100 h100 h200 orin opencl metal webgpu
""".split()


def _native() -> Target:
    host = host_facts()
    wanted = (*V4, VNNI, BF16)
    features = tuple(feature for feature in wanted if feature in host.features)
    if not set(V3) <= set(features):
        return _x86("native", "x86-64", features)
    level = "x86-64-v4" if set(V4) <= set(features) else "x86-64-v3"
    return _x86("native", host.cpu or level, features, l1=host.l1, l2=host.l2, l3=host.l3)


def _by_name(name: str) -> Target:
    if name in PLANNED:
        raise NotAvailableError(f"target {name}")
    targets = known_targets()
    if name not in targets:
        raise TargetError(f"unknown target {name!r}; there are: {', '.join(targets)}")
    return targets[name]


def _with_features(target: Target, key: str, value: str) -> Target:
    """Add instruction sets; they become part of the target's name."""
    wanted, known = value.split("+"), (VNNI, BF16)
    for feature in wanted:
        if feature in AMX:
            raise NotAvailableError(f"{feature} (kernels use {VNNI} and {BF16} instead)")
        if feature not in known:
            raise TargetError(
                f"target {target.name} has no feature {feature!r} to add; there are: "
                f"{', '.join(known)}"
            )
    if not set(V4) <= set(target.features):
        raise TargetError(f"target {target.name}: {value} needs x86-64-v4")
    added = tuple(f for f in known if f in wanted and f not in target.features)
    name = f"{target.name}{{{key}={value}}}"
    return dataclasses.replace(target, name=name, features=(*target.features, *added))


def _with_fact(target: Target, key: str, value: str) -> Target:
    numbers = [f.name for f in dataclasses.fields(Target) if f.type is int]
    if key not in numbers:
        known = ", ".join(["features", *numbers])
        raise TargetError(f"target {target.name} has no fact {key!r}; facts: {known}")
    amount = _AMOUNT.fullmatch(value)
    if not amount:
        raise TargetError(f"target {target.name}: {key}={value!r} is not a number or size")
    changed: dict[str, Any] = {key: int(amount["number"]) * _UNITS[amount["unit"]]}
    return dataclasses.replace(target, **changed)

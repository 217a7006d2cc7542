"""Facts of the machine effc runs on, read from the operating system."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FLAG_NAMES = {
    "bmi1": "bmi",
    "abm": "lzcnt",
    "sse4_2": "sse4.2",
    "avx512_vnni": "avx512vnni",
    "avx512_bf16": "avx512bf16",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
}
CPU_BY_FAMILY = {("AuthenticAMD", 25, True): "znver4", ("AuthenticAMD", 26, True): "znver5"}
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Host:
    """What the operating system says about the processor.

    Attributes:
        model: Its marketing name.
        cpu: LLVM's name for it, where it is known; else empty.
        features: Instruction set extensions, in LLVM's names.
        l1: Bytes of first-level data cache.
        l2: Bytes of second-level cache.
        l3: Bytes of last-level cache.
    """

    model: str
    cpu: str
    features: frozenset[str]
    l1: int = 32 << 10
    l2: int = 512 << 10
    l3: int = 8 << 20


@cache
def host_facts() -> Host:
    """Facts of this machine."""
    fields = _first_processor()
    flags = frozenset(FLAG_NAMES.get(flag, flag) for flag in fields.get("flags", "").split())
    family = int(fields.get("cpu family", "0"))
    key = (fields.get("vendor_id", ""), family, "avx512f" in flags)
    return Host(
        fields.get("model name", platform.processor() or platform.machine()),
        CPU_BY_FAMILY.get(key, ""),
        flags,
        **_cache_sizes(),
    )


def _first_processor() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = text.split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cache_sizes() -> dict[str, int]:
    sizes: dict[str, int] = {}
    for entry in CACHES.glob("index*"):
        try:
            kind, level = (
                (entry / "type").read_text().strip(),
                (entry / "level").read_text().strip(),
            )
            size = (entry / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K") and level in "123":
            sizes[f"l{level}"] = int(size[:-1]) << 10
    return sizes

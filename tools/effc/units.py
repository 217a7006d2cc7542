"""Numbers as people read them."""

from typing import Any


def size_text(nbytes: float) -> str:
    """Bytes in decimal units: `22.9 MB`."""
    for unit in ("B", "KB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def time_text(seconds: float) -> str:
    """Seconds in a readable unit: `1.24 ms`."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.1f} µs"
    return f"{1e3 * seconds:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def decibel_text(value: Any) -> str:
    """A signal-to-noise ratio: `26.5 dB`; null stands for one that is not finite."""
    return f"{value:.1f} dB" if isinstance(value, int | float) else "exact"


def speed_text(before: float, after: float) -> str:
    """How two times compare: `1.78x faster`."""
    if after <= before:
        return f"{before / after:.2f}x faster"
    return f"{after / before:.2f}x slower"


def share_text(part: float, whole: float) -> str:
    """A part of a whole: `26%`; empty where the whole is nothing."""
    return f"{part / whole:.0%}" if whole else ""


def metric_text(value: float | None) -> str:
    """A metric's value."""
    return "" if value is None else f"{value:.4f}"

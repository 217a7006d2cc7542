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


def range_text(low: float, high: float) -> str:
    """A range of times: `1.24 to 1.31 ms`."""
    first, last = time_text(low), time_text(high)
    number, _, unit = first.partition(" ")
    return f"{number} to {last}" if last.endswith(f" {unit}") else f"{first} to {last}"


def change_text(before: float | None, after: float | None, better: str | None) -> str:
    """How a metric changed: `-0.0123 worse`; without judgement where it is not known which is."""
    if before is None or after is None:
        return ""
    if before == after:
        return "same"
    is_better = after > before if better == "higher" else after < before
    word = "" if better is None else " better" if is_better else " worse"
    return f"{after - before:+.4f}{word}"


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

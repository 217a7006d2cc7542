"""The measured points of a compile: size against quality, which of them no other one beats."""

from pathlib import Path
from typing import Any

from effc.ir.errors import NotAvailableError, UsageError

INCHES = (6.0, 4.0)
RESOLUTION = 150
MEGABYTE = 1e6


def measured_points(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that was built on the way, with its size, quality and predicted loss.

    Returns:
        Rows with `what`, `size_nbytes`, `quality`, `predicted_loss` and `is_best`: whether no other
        point is at most as large and at least as good; without evaluation, null.
    """
    better = report["metric"]["better"] if report["metric"] else "higher"
    points = [
        {**trial, "predicted_loss": trial.get("predicted_loss")} for trial in report["trials"]
    ]
    for point in points:
        known = point["quality"] is not None
        point["is_best"] = not any(_beats(o, point, better) for o in points) if known else None
    return points


def _beats(one: dict[str, Any], other: dict[str, Any], better: str) -> bool:
    """Whether one point is nowhere worse than another and somewhere better."""
    if one["quality"] is None:
        return False
    gain = one["quality"] - other["quality"]
    gain = gain if better == "higher" else -gain
    saved = other["size_nbytes"] - one["size_nbytes"]
    return bool(gain >= 0 and saved >= 0 and (gain > 0 or saved > 0))


def draw_front(report: dict[str, Any], path: Path) -> None:
    """Draw the measured points as a PNG.

    Raises:
        UsageError: If nothing was evaluated or the file cannot be written.
        NotAvailableError: If matplotlib is not installed.
    """
    points = [point for point in measured_points(report) if point["quality"] is not None]
    points.sort(key=lambda point: int(point["size_nbytes"]))
    if not points:
        raise UsageError("there is no front: nothing was evaluated; compile with --eval")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NotAvailableError("--front without matplotlib (pip install effc[plot])") from error
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    best = sorted((p["size_nbytes"] / MEGABYTE, p["quality"]) for p in points if p["is_best"])
    axes.plot([size for size, _ in best], [quality for _, quality in best], "-o", label="front")
    rest = [(p["size_nbytes"] / MEGABYTE, p["quality"]) for p in points if not p["is_best"]]
    if rest:
        axes.plot([size for size, _ in rest], [found for _, found in rest], "x", label="beaten")
    middle = (points[0]["size_nbytes"] + points[-1]["size_nbytes"]) / 2
    for point in points:
        is_right = point["size_nbytes"] > middle
        axes.annotate(
            point["what"],
            (point["size_nbytes"] / MEGABYTE, point["quality"]),
            xytext=(-6 if is_right else 6, 4),
            textcoords="offset points",
            ha="right" if is_right else "left",
            fontsize=7,
        )
    axes.margins(y=0.1)
    axes.set_xlabel("MB on disk")
    axes.set_ylabel(f"{report['metric']['name']} ({report['metric']['better']} is better)")
    axes.set_title(report.get("model", {}).get("name", ""))
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, format="png", dpi=RESOLUTION)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error

"""The table of the official ONNX suite: `bench/onnx-suite.json` and `docs/onnx.md`."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.onnx_cases import Case, cases, excluded, is_narrowed

if TYPE_CHECKING:
    from bench.onnx_suite import Result

RESULTS, PAGE = Path("bench/onnx-suite.json"), Path("docs/onnx.md")
PASSED = ("passed", "specialised")
BEGIN, END = "<!-- table: make onnx-suite -->", "<!-- end of table -->"
WHAT = {
    "eager": "in PyTorch",
    "native": "compiled",
}


def write_table(results: Sequence["Result"]) -> None:
    """Write every result that is not a plain pass, the counts, and the page."""
    known = cases()
    reasons = {name: excluded(case) for name, case in known.items()}
    narrowed = {name: is_narrowed(case) for name, case in known.items() if not reasons[name]}
    modes = list(dict.fromkeys(result.mode for result in results))
    states = {(result.mode, result.name): result for result in results}
    document = {
        "denominators": {"all": len(known), "D1": len(narrowed), "D2": _count(narrowed)},
        "excluded from D1": _named(reasons),
        "excluded from D2": _named(narrowed),
        "modes": {mode: _outcomes(mode, sorted(known), states) for mode in modes},
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    before = PAGE.read_text() if PAGE.exists() else f"{BEGIN}\n{END}\n"
    head, _, rest = before.partition(BEGIN)
    tail = rest.partition(END)[2]
    table = "\n".join([*_summary(document), *_operators(document, known)])
    PAGE.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}")


def _outcomes(
    mode: str, names: Sequence[str], states: dict[tuple[str, str], "Result"]
) -> dict[str, dict[str, str]]:
    """State and note of every test; those that have not been run say so."""
    missing = {name for name in names if (mode, name) not in states}
    return {
        "state": {n: "not run" if n in missing else states[mode, n].state for n in names},
        "notes": {
            n: states[mode, n].note for n in names if n not in missing and states[mode, n].note
        },
    }


def _count(reasons: dict[str, str]) -> int:
    return sum(not reason for reason in reasons.values())


def _named(reasons: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        if reason:
            found.setdefault(reason, []).append(name)
    return found


def groups(document: dict[str, dict]) -> dict[str, set[str]]:
    """The tests of each denominator, and of D1 without those that spell an operator out."""
    known = set(document["modes"]["eager"]["state"])
    first = known - {n for names in document["excluded from D1"].values() for n in names}
    second = first - {n for names in document["excluded from D2"].values() for n in names}
    return {"all": known, "D1": first, "D2": second}


def _summary(document: dict[str, dict]) -> list[str]:
    lines = [
        "| | tests | " + " | ".join(
            f"{WHAT[mode]}: passed | of which built in" for mode in document["modes"]
        ) + " |",
        "|---" * (2 + 2 * len(document["modes"])) + "|",
    ]  # fmt: skip
    for label, names in groups(document).items():
        for part, chosen in (
            (label, names),
            (f"{label}, base", {n for n in names if "_expanded" not in n}),
            (f"{label}, `_expanded`", {n for n in names if "_expanded" in n}),
        ):
            cells = []
            for mode in document["modes"].values():
                states = Counter(mode["state"].get(name, "not run") for name in chosen)
                cells += [sum(states[state] for state in PASSED), states["specialised"]]
            lines.append(f"| {part} | {len(chosen)} | " + " | ".join(map(str, cells)) + " |")
    first = groups(document)["D1"]
    excluded_names = {**document["excluded from D1"], **document["excluded from D2"]}
    reasons = ", ".join(f"{reason} {len(names)}" for reason, names in excluded_names.items())
    missing = ", ".join(
        f"{WHAT[name]} {sum(mode['state'].get(n, 'not run') == 'not run' for n in first)}"
        for name, mode in document["modes"].items()
    )
    return [
        *lines, "", f"Left out of D1 or D2: {reasons}.", "",
        f"Tests of D1 not run when this was written: {missing}.",
    ]  # fmt: skip


def _operators(document: dict[str, dict], known: dict[str, Case]) -> list[str]:
    """Tests of D1 that do not pass, by operator."""
    chosen = groups(document)["D1"]
    lines = ["", "| operator | " + " | ".join(WHAT[m] for m in document["modes"]) + " |"]
    lines.append("|---" * (1 + len(document["modes"])) + "|")
    rows: dict[str, list[str]] = {}
    for position, mode in enumerate(document["modes"].values()):
        found: dict[str, Counter[str]] = {}
        for name in sorted(chosen):
            state = mode["state"].get(name, "not run")
            if state not in (*PASSED, "not run"):
                found.setdefault(known[name].operator, Counter())[state] += 1
        for operator, states in found.items():
            cells = rows.setdefault(operator, [""] * len(document["modes"]))
            cells[position] = ", ".join(f"{count} {state}" for state, count in states.items())
    lines += [
        f"| {operator} | " + " | ".join(cells) + " |" for operator, cells in sorted(rows.items())
    ]
    return lines

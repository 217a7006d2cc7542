"""The pages on the command line and the report say what is there, all of it."""

import json
import re
from pathlib import Path

import pytest
import typer

from effc import metrics
from effc.cli import app

DOCS = Path(__file__).parents[2] / "docs"
SOURCES = Path(__file__).parents[2]


def options(name):
    command = typer.main.get_command(app).commands[name]
    return {o for p in command.params for o in p.opts if not getattr(p, "hidden", False)}


@pytest.fixture(scope="module")
def page():
    return (DOCS / "cli.md").read_text()


def test_every_command_is_there(page):
    for command in app.registered_commands:
        assert f"effc {command.name}" in page


def test_every_option_of_compile_is_there_and_no_other(page):
    section = page.partition("\n## compile\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(-[\w-]+)", " ".join(rows)))
    flags = {o for o in options("compile") if o.startswith("-")} - {"--json", "--help", "-h"}
    assert named == flags


@pytest.mark.parametrize("name", ["opt", "bench", "tune"])
def test_options_that_are_described_exist(page, name):
    section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(--[\w-]+)", section)) <= options(name)


def test_every_environment_variable_is_there(page):
    source = (SOURCES / "ir" / "options.py").read_text()
    section = page.partition("\n## Environment\n")[2]
    assert set(re.findall(r"EFFC_\w+", source)) == set(re.findall(r"\| `(EFFC_\w+)", section))


def test_metrics_and_exit_codes_are_there(page):
    assert all(f"`{name}`" in page for name in metrics.BUILT_IN)
    codes = page.partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| ([\d, ]+) \|", codes, re.MULTILINE) == [*"0123456", "130, 143"]


def keys(section):
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`(\w+)`", " ".join(first)))


def test_every_key_of_a_report_is_there(small_artifact):
    text = (DOCS / "report.md").read_text()
    head, results, tuning, rows, layers = re.split(r"\n## .*\n", text)
    report = json.loads((small_artifact / "report.json").read_text())
    assert keys(head) == set(report)
    assert keys(results) == set(report["result"]) == set(report["baseline"])
    assert keys(tuning) == set(report["tuning"])
    assert keys(rows) == set(report["passes"][0])
    (notes,) = [row["notes"]["layers"] for row in report["passes"]]
    assert set().union(*notes.values()) <= keys(layers)

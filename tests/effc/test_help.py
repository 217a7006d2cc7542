"""`--version`, `--help`, planned commands, wrong usage."""

import subprocess
import time

import pytest

import effc
from effc.cli import app
from effc.ir.target import PLANNED

COMMANDS = """
compile inspect opt run bench eval explain report targets passes tune export
""".split()
HEAVY = {"torch", "numpy", "tvm", "pydantic"}


def test_every_command_is_tested():
    assert {command.name for command in app.registered_commands} == set(COMMANDS)


def test_version(run):
    assert run("--version").assert_succeeds().out == f"effc {effc.__version__}\n"


def test_help_names_every_command_and_exit_code(run):
    text = run("--help").assert_succeeds().out
    for name in COMMANDS:
        assert f"\n  {name} " in text
    codes = " ".join(text.partition("Exit codes:")[2].partition("\n\n")[0].split())
    for code in range(7):
        assert f"{code} " in codes


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(run, name):
    ran = run(name, "--help").assert_succeeds()
    assert ran.out.startswith("Usage: ")
    assert ran.err == ""
    assert "[[" not in ran.out
    assert all(len(line) <= 100 for line in ran.out.splitlines())


def test_help_imports_nothing_heavy(process):
    code = "import sys; from effc.cli import main; main(['--help']); print(*sys.modules)"
    started = time.perf_counter()
    with process("--help") as running:
        text, _ = running.communicate(timeout=60)
    assert "compile" in text
    assert time.perf_counter() - started < 20
    done = subprocess.run([running.args[0], "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_no_command_shows_help(run):
    assert run().assert_succeeds().out == run("--help").out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["compil", "x"], "compil"),
        (["compile", "--max-dorp", "1%"], "--max-dorp"),
        (["compile", "-o"], "-o"),
        (["run"], "OUT"),
        (["bench", "out", "--rounds", "many"], "'--rounds'"),
        (["bench", "out", "--rounds", "0"], "rounds"),
        (["compile", "x", "--threads", "-1"], "threads"),
        (["opt", "model"], "--passes"),
        (["eval", "out"], "--data"),
        (["compile"], "no MODEL given"),
        (["compile", "x", "--sizes", "batch"], "name=number"),
        (["compile", "x", "--sizes", "batch=few"], "name=number"),
    ],
)
def test_wrong_usage(run, words, reason):
    run(*words).assert_fails(2, reason)


@pytest.mark.parametrize(
    "words",
    [
        ["export", "out", "--to", "c", "-o", "x.c"],
        ["compile", "x", "--max-memory", "5MB"],
    ],
)
def test_what_is_planned_says_so(run, words):
    run(*words).assert_fails(2, "is not available yet")


@pytest.mark.parametrize("name", PLANNED)
def test_planned_targets_say_so(run, name):
    ran = run("compile", "cli_models:classifier", "--target", name)
    assert ran.assert_fails(2) == f"target {name} is not available yet"


@pytest.mark.parametrize("words", [["passes"], ["targets"], ["passes", "quantize"], ["--help"]])
def test_a_reader_that_goes_away_is_no_failure(process, words):
    with process(*words) as running:
        running.stdout.close()
        assert running.wait(timeout=60) == 0
        assert running.stderr.read() == ""


def test_targets_and_their_facts(run):
    text = run("targets").assert_succeeds().out
    found = run("targets", "--json").assert_succeeds().json
    names = [row["name"] for row in found["targets"]]
    assert "native" in names
    assert all(name in text for name in names + found["planned"])


def test_passes_and_their_options(run):
    listed = run("passes").assert_succeeds().out
    assert "quantize" in listed
    shown = run("passes", "quantize").assert_succeeds().out
    assert "static_db=32.0" in shown
    (facts,) = run("passes", "quantize", "--json").assert_succeeds().json
    options = {option["name"]: option["default"] for option in facts["options"]}
    assert options["static_db"] == 32.0
    run("passes", "quantise").assert_fails(2, "unknown pass 'quantise'", "quantize")

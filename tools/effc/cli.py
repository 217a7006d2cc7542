"""The command line: one file per command below `commands/`, errors as one line."""

import os
import sys
from collections.abc import Sequence

import typer

from effc.commands import (
    bench,
    compile,
    eval,
    explain,
    export,
    inspect,
    listings,
    opt,
    report,
    run,
    tune,
)
from effc.interruption import Interrupted, interruptible, raise_if_stopped
from effc.ir import options
from effc.ir.errors import INTERNAL, USAGE, EffcError
from effc.version import __version__

app = typer.Typer(
    name="effc",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compile")(compile.command)
app.command("inspect")(inspect.command)
app.command("opt")(opt.command)
app.command("run")(run.command)
app.command("bench")(bench.command)
app.command("eval")(eval.command)
app.command("explain")(explain.command)
app.command("report")(report.command)
app.command("targets")(listings.targets)
app.command("passes")(listings.passes)
app.command("tune")(tune.command)
app.command("export")(export.command)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"effc {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Make a trained model small, fast and deployable.

    Exit codes: 0 success, 1 internal failure, 2 usage or unreadable input, 3 unsupported
    operators, 4 budget not met, 5 slower than the baseline, 6 output check failed.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; print errors as one line and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with interruptible() as stop:
        try:
            code = app(args=words, standalone_mode=False)
            sys.stdout.flush()
            raise_if_stopped()
        except Interrupted as error:
            return _fail(str(error), error.exit_code)
        except BrokenPipeError:
            return _nobody_reads()
        except SystemExit as error:  # typer's answer to a closed pipe, or a user's module
            if isinstance(error.__context__, BrokenPipeError):
                return _nobody_reads()
            return _fail(f"the code that was called ended with sys.exit({error.code!r})", USAGE)
        except Exception as error:
            if stop.number is not None:  # what failed is what the signal cut off
                interrupted = Interrupted(stop.number)
                return _fail(str(interrupted), interrupted.exit_code)
            if options.wants_traceback():
                raise
            return _fail_of(error)
    return code if isinstance(code, int) else 0


def _fail_of(error: Exception) -> int:
    if hasattr(error, "format_message"):  # typer's own usage errors
        return _fail(error.format_message(), USAGE)
    if isinstance(error, EffcError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, OSError):
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}", USAGE)
    reason = f"{type(error).__name__}: {error}"
    return _fail(f"internal failure: {reason} (EFFC_TRACEBACK=1 shows where)", INTERNAL)


def _fail(message: str, code: int) -> int:
    print(f"effc: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _nobody_reads() -> int:
    """The reader of a pipe went away, which is no failure; keep the interpreter quiet about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())

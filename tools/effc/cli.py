"""The command line: one file per command below `commands/`, errors as one line."""

import signal
import sys
from collections.abc import Sequence
from types import FrameType

import typer

from effc.commands import (
    bench,
    compile,
    eval,
    explain,
    inspect,
    listings,
    opt,
    planned,
    report,
    run,
)
from effc.ir import options
from effc.ir.errors import INTERNAL, USAGE
from effc.version import __version__

INTERRUPTED = 130
TERMINATED = 143

app = typer.Typer(
    name="effc",
    help="Make a trained model small, fast and deployable.",
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
app.command("tune")(planned.tune)
app.command("export")(planned.export)


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
    """Make a trained model small, fast and deployable."""


class _Terminated(BaseException):
    """SIGTERM, so that temporary files are removed on the way out."""


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; print errors as one line and return the exit code."""
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        code = app(
            args=list(sys.argv[1:] if arguments is None else arguments), standalone_mode=False
        )
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; the output folder is as it was", INTERRUPTED)
    except _Terminated:
        return _fail("terminated; the output folder is as it was", TERMINATED)
    except BrokenPipeError:
        return 0
    except Exception as error:
        if options.wants_traceback():
            raise
        return _fail_of(error)
    return code if isinstance(code, int) else 0


def _fail_of(error: Exception) -> int:
    from effc.ir.errors import EffcError

    if hasattr(error, "format_message"):  # typer's own usage errors
        return _fail(error.format_message(), USAGE)
    if isinstance(error, EffcError):
        return _fail(str(error), error.exit_code)
    reason = f"{type(error).__name__}: {error}"
    return _fail(f"internal failure: {reason} (EFFC_TRACEBACK=1 shows where)", INTERNAL)


def _fail(message: str, code: int) -> int:
    print(f"effc: error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""SIGINT and SIGTERM as an exception that only the command line catches."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
OFFSET = 128


class Interrupted(BaseException):
    """The process was asked to stop.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it."""
        return OFFSET + self.number

    def __str__(self) -> str:
        return "interrupted" if self.number == signal.SIGINT else "terminated"


class Stop:
    """A signal handler that raises, and remembers that it did.

    Attributes:
        number: The last signal, or None.
    """

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.number = number
        raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into `Interrupted` while the block runs, in the main thread.

    Where Python cannot raise, as in a destructor, `raise_if_stopped` does so later; meanwhile
    nothing is printed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    shown = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if lost.exc_type is Interrupted else shown(lost)
    try:
        yield stop
    finally:
        sys.unraisablehook = shown
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def raise_if_stopped() -> None:
    """Raise again what a library swallowed.

    An exception raised by a signal is lost if it hits a destructor or a callback.

    Raises:
        Interrupted: If the process was asked to stop.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, Stop) and handler.number is not None:
        raise Interrupted(handler.number)

"""Deferred handling of Ctrl-C and SIGTERM during a run, for both backends."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class Interrupt:
    """A request to stop the run.

    Attributes:
        asked: The signal that was received, or None.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None

    def stop(self, line: str) -> NoReturn:
        """End the program, with a line to standard error.

        Raises:
            KeyboardInterrupt: After Ctrl-C in an interactive session.
            SystemExit: Otherwise. The code is 128 plus the signal number, as for a program that
                was ended by the signal.
        """
        asked = self.asked or signal.SIGINT
        if asked == signal.SIGINT and _interactive():
            raise KeyboardInterrupt(line)
        print(line, file=sys.stderr, flush=True)
        raise SystemExit(128 + asked)


@contextmanager
def deferred(once: bool = False) -> Iterator[Interrupt]:
    """Record Ctrl-C and SIGTERM so that the run can stop at a safe point; a second one ends it.

    Signals reach the main thread only; in other threads this does nothing.

    Args:
        once: Whether to ignore a second signal. When a cluster sends a signal to every process,
            `torchrun` forwards its own too, so that each process receives two.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: Any) -> None:
        if interrupt.asked is None:
            interrupt.asked = signal.Signals(number)
        elif not once:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for sign, handler in before.items():
            signal.signal(sign, handler)

    try:
        for sign in (signal.SIGINT, signal.SIGTERM):
            before[sign] = signal.signal(sign, note)
        yield interrupt
    finally:
        restore()


def _interactive() -> bool:
    """Whether this is an interactive session: Python's prompt or a notebook."""
    ipython: Any = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (ipython is not None and ipython.get_ipython() is not None)

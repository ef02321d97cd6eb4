"""Ctrl-C and SIGTERM in the middle of a run, for both backends."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class Interrupt:
    """Whether the run was asked to stop.

    Attributes:
        asked: The signal that asked, or None.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None

    def stop(self, line: str) -> NoReturn:
        """Ends the program, with a line to standard error.

        Raises:
            KeyboardInterrupt: in an interactive session, where Ctrl-C asked.
            SystemExit: elsewhere; its code is 128 and the number of the signal, as of a program
                that the signal ended.
        """
        asked = self.asked or signal.SIGINT
        if asked == signal.SIGINT and _interactive():
            raise KeyboardInterrupt(line)
        print(line, file=sys.stderr, flush=True)
        raise SystemExit(128 + asked)


@contextmanager
def deferred(once: bool = False) -> Iterator[Interrupt]:
    """Inside, Ctrl-C and SIGTERM are noted for the run to stop where it can; twice, they end it.

    Signals are the main thread's: elsewhere nothing is noted.

    Args:
        once: Whether a second signal counts nothing: where a cluster sends one to every process,
            `torchrun` passes its own on, and each process gets two.
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
    """Whether somebody types, in Python's own prompt or in a notebook."""
    ipython: Any = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (ipython is not None and ipython.get_ipython() is not None)

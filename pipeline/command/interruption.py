"""SIGINT, SIGTERM and SIGHUP end a command with one line and status 128 + signal.

All threads block these signals, and one thread waits for them. The signals therefore also end native calls that take
minutes, and glog's SIGTERM handler, which pycolmap installs on import and which prints a native stack trace, never
runs. A thread inherits the blocked signals from the thread that starts it, so a command calls `watch_signals` before
its other imports.
"""

import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from pipeline.command.exit_status import of_signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Interrupts system calls of the main thread. Nothing else uses it, and by default it is ignored.
_WAKE = signal.SIGURG
# Time for the main thread to reach a safe point and clean up. Ending it earlier is safe: file writes are atomic.
_GRACE_S = 5.0
# Closing a terminal sends SIGHUP twice, from the shell and from the kernel.
_SAME_EVENT_S = 0.3
_POLL_S = 0.1
_WRITE_PATIENCE_S = 1.0

logger = logging.getLogger(__name__)


class StopRequest:
    """The stop signal received so far, and how to react to one. True after a signal.

    Attributes:
        number: the first signal; None before a signal.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._is_watching = False
        self._is_interruptible = False
        self._notice: str | None = None
        self._ending = threading.Lock()

    def __bool__(self) -> bool:
        return self.number is not None

    def watch(self) -> None:
        """Start to wait for signals. Ignored signals stay ignored."""
        if self._is_watching:
            return
        self._is_watching = True
        # nohup ignores SIGHUP, and background jobs of shell scripts ignore SIGINT. pycolmap resets an ignored SIGTERM.
        expected = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        signal.signal(_WAKE, self._interrupt)
        if expected:
            threading.Thread(target=self._wait_for, args=(expected,), name="signals", daemon=True).start()

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside the block, a signal raises KeyboardInterrupt; elsewhere it ends the process immediately.

        The process also ends at a second signal, or if the main thread is still running a few seconds later.
        """
        self._is_interruptible = True
        try:
            yield
        finally:
            self._is_interruptible = False

    @contextmanager
    def finishing(self, notice: str) -> Iterator["StopRequest"]:
        """Inside the block, the first signal only logs a notice; the code in the block checks this object and stops."""
        self._notice = notice
        try:
            yield self
        finally:
            self._notice = None

    def end(self, line: str) -> NoReturn:
        """Print the line and end the process. No exit handler, thread or native destructor can delay this."""
        # Never released: a second thread waits here until the first one ends the process.
        self._ending.acquire()
        for handler in logging.root.handlers:
            # Another thread may be writing a line.
            if handler.lock is not None:
                handler.lock.acquire(timeout=_WRITE_PATIENCE_S)
        with suppress(OSError, ValueError, AttributeError):
            # Erases a progress bar or the terminal's ^C.
            erase = "\r\x1b[2K" if sys.stderr.isatty() else ""
            # A full pipe without a reader must not block the exit.
            if select.select([], [sys.stderr], [], _WRITE_PATIENCE_S)[1]:
                os.write(sys.stderr.fileno(), f"{erase}{line}\n".encode(errors="backslashreplace"))
        os._exit(of_signal(self.number or signal.SIGINT))

    def line(self, why: str = "") -> str:
        """The line to print: the signal, and what to do next."""
        by = "" if self.number is None else f" by {self.number.name}"
        return f"stopped{by}: {why or 'finished work is kept; run the same command again to continue'}"

    def _wait_for(self, expected: list[signal.Signals]) -> None:
        self.number = signal.Signals(signal.sigwait(expected))
        if self._notice is not None:
            logger.info(self._notice)
        elif self._is_interruptible:
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
        else:
            self.end(self.line())
        time.sleep(_SAME_EVENT_S)
        for repeated in signal.sigpending() & set(expected):
            signal.sigwait([repeated])
        while self._notice is not None:
            if signal.sigtimedwait(expected, _POLL_S):
                self.end(self.line())
        signal.sigtimedwait(expected, _GRACE_S)
        self.end(self.line())

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self and self._is_interruptible:
            raise KeyboardInterrupt


stop_request = StopRequest()


def watch_signals() -> None:
    """End this process with one line and status 128 + signal at SIGINT, SIGTERM and SIGHUP.

    A command calls this as its first statement, before imports that are slow or start threads.
    """
    stop_request.watch()

"""SIGTERM, which SLURM and Docker send some seconds before they kill, and Ctrl-C: work ends where it can be resumed."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_PATIENCE = 1.0  # seconds in which what waits outside of Python may come back to it
_SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}


class Stopped(KeyboardInterrupt):
    """A signal ended the work; `status` is what a shell expects then: 130 after Ctrl-C, 143 after SIGTERM."""

    def __init__(self, number: int, said: str = ""):
        super().__init__("; ".join(filter(None, (_SAID[signal.Signals(number)], said))))
        self.number, self.status = number, 128 + number


class Request:
    """Whether a signal asks the work to end; `number` is the signal's, 0 before."""

    number = 0


@contextmanager
def raised() -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C raise `Stopped`."""

    def stop(number: int, _: Any) -> None:
        raise Stopped(number)

    with _handled(stop):
        yield


@contextmanager
def ending() -> Iterator[None]:
    """Inside, where SIGTERM and Ctrl-C raise, they end the process with that status even if it waits in code that does
    not come back to Python, as torch's for other processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    over = threading.Event()

    def watch() -> None:
        with open(read, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                if number[0] in _SAID and not over.wait(_PATIENCE):
                    stopped = Stopped(number[0])
                    print(stopped, file=sys.stderr, flush=True)
                    os._exit(stopped.status)

    threading.Thread(target=watch, daemon=True).start()
    earlier = signal.set_wakeup_fd(write)  # written to as a signal comes, before any handler is called
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(earlier)
        os.close(write)


@contextmanager
def noted() -> Iterator[Request]:
    """Inside, the first SIGTERM or Ctrl-C is noted, for work that looks at it between its steps; the next one raises.

    In a thread other than the main one, which no signal reaches, nothing is ever noted.
    """
    request = Request()

    def note(number: int, _: Any) -> None:
        if request.number:
            raise Stopped(number)
        request.number = number

    with _handled(note):
        yield request


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, handler) for number in _SAID}
    try:
        yield
    finally:
        for number, one in earlier.items():
            signal.signal(number, one)

"""What belongs to the whole process, changed for one of its threads alone."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import RLock, get_ident
from typing import Any
from unittest.mock import patch

_REPLACING = RLock()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    # A process forked while another thread holds it would have it locked, and nobody there to release it.
    os.register_at_fork(
        before=_REPLACING.acquire, after_in_parent=_REPLACING.release, after_in_child=_REPLACING.release
    )


@contextmanager
def replaced_here(*functions: tuple[Any, str, Callable[..., Any]]) -> Iterator[None]:
    """Inside, each function, given by its owner and name, is another for this thread; for others it stays what it is.

    One thread at a time: of two that overlap, the one would put back what the other had put there.
    """
    inside = [get_ident()]

    def here(original: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def called(*args: Any, **options: Any) -> Any:
            return (other if get_ident() in inside else original)(*args, **options)

        return called

    with _REPLACING, ExitStack() as stack:
        for owner, name, other in functions:
            stack.enter_context(patch.object(owner, name, here(getattr(owner, name), other)))
        stack.callback(inside.clear)  # who kept one of them has the original
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, what this thread prints is lost."""
    with replaced_here(*([(sys.stdout, "write", len)] if sys.stdout else [])):
        yield

"""The one exception for what a user can cause and mend; the command line prints it as a single line."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class DiffIMLError(ValueError):
    """Says the offending value, what was expected, and how to mend it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known word closest to `word`, or `""` when none is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


@contextmanager
def of_arguments() -> Iterator[None]:
    """Inside, messages speak of the arguments of a Python call in place of flags: image_size, not --image_size."""
    try:
        yield
    except DiffIMLError as error:
        error.args = (re.sub(r"\bflag(?=s?\b)", "argument", re.sub(r"(?<![\w-])--(?=[a-z])", "", str(error))),)
        raise

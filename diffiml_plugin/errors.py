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


def visible(text: str) -> str:
    r"""The text with every character that a terminal would obey, or not show, as its escape code, such as \x1b."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def wanted_memory(error: Exception) -> str:
    """`"2.00 GiB more were wanted"`, of torch's error of a full memory, whose own advice is not for users of ours."""
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    return f"{wanted[1]} more were wanted" if wanted else "nothing of it was left"


def first_line(error: Exception) -> str:
    """The error's type and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def device_failed(error: BaseException) -> bool:
    """Whether torch says that the device itself failed, as one that was lost: nothing more is computed on it.

    Told by the words of a RuntimeError, because torch has a class for it since 2.8 alone, and its import takes seconds.
    What cuBLAS refuses is called a CUDA error too, but its status begins with CU.
    """
    return isinstance(error, RuntimeError) and bool(re.match(r"(CUDA|HIP)( driver)? error: (?!CU)", str(error)))


def out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory, or the computer's, did not suffice; told without an import of torch, too."""
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return full or "can't allocate memory" in str(error)


@contextmanager
def of_arguments() -> Iterator[None]:
    """Inside, messages speak of the arguments of a Python call in place of flags: image_size, not --image_size. What is
    part of a path stays."""
    try:
        yield
    except DiffIMLError as error:
        said = re.sub(r"(?<![\w/\\-])--(?=[a-z_]+(?![\w./\\-]*[./\\]\w))", "", str(error))
        error.args = (re.sub(r"(?<![\w./\\-])flag(?=s?(?![\w/\\-]|\.\w))", "argument", said),)
        raise

"""What the package logs, as a terminal shows it: `note: ...`, `warning: ...` or `error: ...`, on stderr.

Names of files and datasets may hold anything. What a terminal would obey is shown, there and on stdout.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, cast

from diffiml_plugin.errors import visible

_WORDS = {logging.INFO: "note", logging.WARNING: "warning", logging.ERROR: "error"}


class _Terminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # late: `--help` says nothing here

        text = visible(" ".join(record.getMessage().split()))  # one line each
        tqdm.write(f"{_WORDS[record.levelno]}: {text}", file=sys.stderr)  # above a progress bar, if there is one


class _Printed:
    """A stream, of whose text only the ends of lines are obeyed."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write("\n".join(map(visible, text.split("\n"))))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Inside, the package's log goes to stderr, and what is printed holds no escape codes.

    Only the command does so; a library leaves it to its user.
    """
    logger, terminal = logging.getLogger("diffiml_plugin"), _Terminal()
    level = logger.level
    logger.addHandler(terminal)
    logger.setLevel(logging.INFO)
    try:
        with redirect_stdout(cast(TextIO, _Printed(sys.stdout))), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # thousands of one damaged file
            yield
    finally:
        logger.removeHandler(terminal)
        logger.setLevel(level)

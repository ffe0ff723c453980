"""What the package logs, as a terminal shows it: `note: ...`, `warning: ...` or `error: ...`, on stderr."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_WORDS = {logging.INFO: "note", logging.WARNING: "warning", logging.ERROR: "error"}


class _Terminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # late: `--help` says nothing here

        text = " ".join(record.getMessage().split())  # one line each
        tqdm.write(f"{_WORDS[record.levelno]}: {text}", file=sys.stderr)  # above a progress bar, if there is one


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Inside, the package's log goes to stderr. Only the command does so; a library leaves it to its user."""
    logger, terminal = logging.getLogger("diffiml_plugin"), _Terminal()
    level = logger.level
    logger.addHandler(terminal)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(terminal)
        logger.setLevel(level)

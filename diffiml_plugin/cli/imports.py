"""How a verb imports what is heavy."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Inside, no garbage is collected.

    Importing torch and timm makes 700,000 objects that stay. Looking through them for garbage, again and again, takes a
    sixth of the time; what is there in the end is never looked through again.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if collects:
            gc.enable()

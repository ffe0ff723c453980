"""How what is heavy is imported: quickly, and away from the current folder, which may be anyone's."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_PLACES = ("MPLCONFIGDIR", "MATPLOTLIBRC")  # variables of what is imported elsewhere, which may be relative
# In the environment of the processes that a command starts: the first is Python's, the start-up hook reads the other.
_SAID = {"PYTHONSAFEPATH": "1", "DIFFIML_KEPT_AWAY": "1"}


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


def keep_away(is_ours: bool = True) -> None:
    """From now on nothing that is imported runs what lies in the current folder, in processes of this one and, if this
    one `is_ours`, here: another program's threads would find themselves in another folder meanwhile.
    """
    os.environ.update(_SAID)
    if is_ours and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


@contextmanager
def kept_away(is_ours: bool) -> Iterator[None]:
    """`keep_away` inside; afterwards the processes of this one are told nothing any more."""
    before = {name: os.environ.get(name) for name in _SAID}
    keep_away(is_ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def no_relative_path_added() -> Iterator[None]:
    """Inside, nothing relative comes to `sys.path`."""
    path = sys.path
    sys.path = _FullPaths(path)
    try:
        yield
    finally:
        path[:] = sys.path
        sys.path = path


class _FullPaths(list[str]):
    def append(self, entry: str) -> None:
        if os.path.isabs(entry):
            super().append(entry)


class _Finder:
    """An entry of `sys.meta_path` for what looks into the current folder as it is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _APART:
            return None
        behind: list[Any] = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in behind)), None)
        if spec is not None and spec.loader is not None:  # a folder that was left behind has none
            spec.loader.exec_module = _APART[name]()(spec.loader.exec_module)
        return spec


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Inside, the current folder is this package's; afterwards libraries are looked for where they were before."""
    import multiprocessing.process  # noqa: F401  (notes the current folder, for the processes that it starts)

    libraries, here = os.environ.get("LD_LIBRARY_PATH"), None
    with suppress(OSError):  # of a folder that is gone, or that this user may not enter, nothing is taken, either
        for name in filter(os.environ.get, _PLACES):
            os.environ[name] = os.path.abspath(os.environ[name])
        if hasattr(os, "fchdir"):
            here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # whatever it is called
    try:
        if here is not None:
            os.chdir(os.path.dirname(__file__))
        yield
    finally:
        if here is not None:
            os.fchdir(here)
            os.close(here)
        os.environ.pop("LD_LIBRARY_PATH", None)
        if libraries is not None:
            os.environ["LD_LIBRARY_PATH"] = libraries


_APART = {
    # torch's libraries look for the GPU's in the current folder too, matplotlib for its settings, and OpenCV has the
    # processes that are started later look there for theirs
    **dict.fromkeys(("torch", "matplotlib", "cv2"), _elsewhere),
    # some of the zoo's modules add `.` and `./modules` to `sys.path`
    **dict.fromkeys(("IMDLBenCo", "IMDLBenCo.cli"), no_relative_path_added),
}

"""What was found wrong with a list's files, remembered until one of them changes."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from threading import Condition
from typing import Any, TypedDict, TypeVar

import PIL
from tqdm import tqdm

from diffiml_plugin.data import faults, formats, images, lists
from diffiml_plugin.data.faults import Fault, examine
from diffiml_plugin.data.formats import MOST_BYTES, MOST_PIXELS
from diffiml_plugin.data.images import pixels_held
from diffiml_plugin.data.lists import NEGATIVE, ImageList, without
from diffiml_plugin.errors import DiffIMLError, visible
from diffiml_plugin.files import file_digest, replacing
from diffiml_plugin.folders import user_cache
from diffiml_plugin.stored import checked, read_json, require_file

_logger = logging.getLogger(__name__)
RULES = 2  # raised when what counts as a fault changes, and neither Pillow nor a module of DECIDING says so
DECIDING = (__file__, faults.__file__, formats.__file__, images.__file__, lists.__file__)
_STOPPING = ("missing", "undecodable", "itself", "size", "32-bit", "dark", "alpha", "not binary")  # a run refuses them
_BATCH = 1024  # pairs handed to the threads at a time, so that millions need no memory and Ctrl-C works
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Checked:
    """The lists as they may be used, with their digests; `left_out` counts the pairs that each lost, `longest` is in
    pixels."""

    lists: list[ImageList]
    left_out: list[int]
    longest: int


class _Told(TypedDict):
    """A fault of the pair with a number, as it is kept."""

    number: int
    kind: str
    path: str
    text: str
    harmful: bool


_KEPT = {"state": str, "longest": int, "digest": str, "faults": list[_Told]}


def check_lists(listings: Sequence[ImageList], keep_going: bool = False) -> Checked:
    """Decodes all files of `listings`, in parallel: the quick part of `datasets check`. Warns of what may be wrong.

    What was found is kept in the user's cache, and serves as long as no file of its list changes, and no
    rule by which it was found. Of several processes the first looks, and tells the others.

    Args:
        keep_going: leave faulty pairs out, with a warning that says how many.

    Raises:
        DiffIMLError: the first file that is missing, undecodable or of more than 16 bits, or a mask that is of
            another size or not black and white, how to mend it, and how many more there are; with `keep_going`, a
            list of nothing else.
    """
    from diffiml_plugin import launch  # late: `datasets` needs no torch

    longest, digests, faulty = launch.from_first(lambda: _look_at(listings, keep_going))
    lists = [
        replace(without(listed, numbers), digest=digest)
        for listed, digest, numbers in zip(listings, digests, faulty, strict=True)
    ]
    return Checked(lists, [len(numbers) for numbers in faulty], longest)


def _look_at(listings: Sequence[ImageList], keep_going: bool) -> tuple[int, list[str], list[set[int]]]:
    """The longest side of all images, and of each list the digest of its pairs and the numbers of the faulty ones."""
    examined = [_remembered(listed) for listed in listings]
    stopping = [[(number, fault) for number, fault in of_list if fault.kind in _STOPPING] for *_, of_list in examined]
    for listed, of_list in zip(listings, stopping, strict=True):
        if not of_list:
            continue
        pairs, bad = len(listed.images), len({number for number, _ in of_list})
        if not keep_going or bad == pairs:
            more = f" ({len(of_list) - 1} more of {pairs} pairs are faulty)" if of_list[1:] else ""
            raise DiffIMLError(of_list[0][1].text + more)
        _logger.warning(f"{bad} of {pairs} pairs of {listed.source} are faulty and left out: {of_list[0][1].text}")
    harmful = [fault for *_, of_list in examined for _, fault in of_list if fault.kind not in _STOPPING]
    for kind in dict.fromkeys(fault.kind for fault in harmful):
        texts = [fault.text for fault in harmful if fault.kind == kind]
        _logger.warning(texts[0] + (f" ({len(texts) - 1} more are {kind})" if texts[1:] else ""))
    longest, digests = max(longest for longest, *_ in examined), [digest for _, digest, _ in examined]
    return longest, digests, [{number for number, _ in of_list} for of_list in stopping]


def _remembered(listed: ImageList) -> tuple[int, str, list[tuple[int, Fault]]]:
    """The longest side of a list's images, the digest of the bytes of its pairs without those that are faulty, and the
    faults that are told with the numbers of their pairs, from the cache if its files are as they were.

    A list that would stop a run is looked at anew each time.
    """
    pairs = list(zip(listed.images, listed.masks, strict=True))
    cache = user_cache("checked")
    file = cache / f"{digest_of(pairs)}.json" if cache else None  # without one, the next start looks again
    state = digest_of([rules(), *in_parallel(state_here, [path for pair in pairs for path in pair], "looking")])
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = checked(read_json(file), _KEPT, str(file)) if file else None
        if kept and kept["state"] == state:
            return kept["longest"], kept["digest"], [(fault.pop("number"), Fault(**fault)) for fault in kept["faults"]]
    longest, content, told = 0, sha256(), []
    for number, (size, of_pair, digests) in enumerate(in_parallel(in_turn(_look), pairs, "checking")):
        longest = max(longest, *size)
        # Of a mask drawn on what a viewer shows, the orientation falsifies scores.
        told += [(number, fault) for fault in of_pair if fault.harmful or fault.kind == "orientation"]
        if not any(fault.kind in _STOPPING for fault in of_pair):
            content.update(f"{digests}\n".encode())
    digest = content.hexdigest()
    if not file or any(fault.kind in _STOPPING for _, fault in told):  # the disk's, perhaps, and soon mended
        return longest, digest, told
    with suppress(OSError):
        with replacing(file) as opened:
            faults = [{"number": number, **asdict(fault)} for number, fault in told]
            entry = {"state": state, "longest": longest, "digest": digest, "faults": faults}
            opened.write(json.dumps(entry).encode())
    return longest, digest, told


def _look(pair: tuple[str, str]) -> tuple[tuple[int, int], list[Fault], list[str | None]]:
    """As `examine`, and the digests of the files."""
    return *examine(*pair), [content_digest(path) for path in pair if path != NEGATIVE]


def rules(*modules: str) -> list[object]:
    """By which files are judged: what changes with Pillow, with a module of DECIDING, and with `modules`."""
    return [RULES, PIL.__version__, *map(file_digest, (*DECIDING, *modules))]


def state_of(path: str) -> tuple[int, int] | None:
    """Size and date of a file, which a copy may share, and which mostly tell that it is still the same; None if there
    is none.
    """
    state = state_here(path)
    return state and state[:2]


def state_here(path: str) -> tuple[int, int, int] | None:
    """Size, date and time of change of a file, for what is kept of its content: an archive or a copy sets the date of
    what it puts in a file's place, but no time of change. None if there is none.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content_digest(path: str | Path) -> str | None:
    """The SHA-256 of a file; None if it is none that can be read, or larger than an image may be."""
    try:
        require_file(path, MOST_BYTES)
        return file_digest(path)
    except (DiffIMLError, OSError):
        return None


def name_and_size(file: str) -> str:
    """What mostly tells files apart wherever they lie; the size of a missing one is 0, as "Negative"'s."""
    state = None if file == lists.NEGATIVE else state_of(file)
    return f"{os.path.basename(file)}|{state[0] if state else 0}"


def digest_of(value: object) -> str:
    """A hash of plain values."""
    return sha256(json.dumps(value).encode()).hexdigest()


def in_parallel(function: Callable[[_Item], _Result], items: Sequence[_Item], title: str) -> Iterator[_Result]:
    """The results of `function` in the order of `items`, computed by threads, under a progress bar."""
    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
        batches = (pool.map(function, items[start : start + _BATCH]) for start in range(0, len(items), _BATCH))
        yield from tqdm(chain.from_iterable(batches), visible(title), len(items), unit="img", leave=False, disable=None)


def in_turn(function: Callable[[tuple[Any, Any]], _Result]) -> Callable[[tuple[Any, Any]], _Result]:
    """A function that decodes an image and its mask, if there is one, for threads: together they hold no more pixels
    than the largest image may have, which is then alone. Examining a pair takes 5 to 14 bytes a pixel.
    """
    room = _Room(MOST_PIXELS)

    def waiting(pair: tuple[Any, Any]) -> _Result:
        with room.of(max(pixels_held(path) for path in pair if path and path != NEGATIVE)):
            return function(pair)

    return waiting


class _Room:
    """For so many pixels at once, or for more of one image alone."""

    def __init__(self, most: int):
        self.most, self.taken, self.changed = most, 0, Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Inside, so many are taken; waits until they are free."""
        with self.changed:
            self.changed.wait_for(lambda: not self.taken or self.taken + pixels <= self.most)
            self.taken += pixels
        try:
            yield
        finally:
            with self.changed:
                self.taken -= pixels
                self.changed.notify_all()

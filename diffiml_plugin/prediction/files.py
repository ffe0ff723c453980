"""`benco predict`: from photos to masks, results.jsonl and a page, through the data path of `benco test`.

Reading and preparing photos, the model, and writing run beside each other, within a bound on the pixels in memory.
"""

import errno
import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

from tqdm import tqdm

from diffiml_plugin.data.formats import read_content
from diffiml_plugin.data.images import pixels_held
from diffiml_plugin.errors import DiffIMLError, device_failed, first_line, visible
from diffiml_plugin.evaluation.records import code_digest
from diffiml_plugin.files import inside
from diffiml_plugin.folders import LOCK, claimed, remove_half_written
from diffiml_plugin.ledger import LEDGER, begin
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.finding import find_photos, name_key, unique_names
from diffiml_plugin.prediction.gallery import ENDINGS_OF_PREVIEWS, PAGE, PREVIEWS, write_gallery, write_previews
from diffiml_plugin.prediction.journal import MASK, RESULTS, RUN, Entry, Journal
from diffiml_plugin.prediction.photograph import Photograph
from diffiml_plugin.prediction.result import ENDINGS, Result, write_result

FILES = (RUN, RESULTS, PAGE)  # beside those of each photo
_logger = logging.getLogger(__name__)
FAILED = "failed"
_WORKERS = min(4, os.cpu_count() or 1)  # threads that read, and as many that write
_AHEAD = 2 * _WORKERS  # photos
_PIXELS = 16_000_000  # that wait before the model, and as many behind it; a larger photo is read when all are written
_RESERVED = (*FILES, PREVIEWS, LOCK, LEDGER)  # names that no folder of photos takes
_MOST_REGIONS = 100  # of an image, in its entry
_MINUTE = 60.0  # seconds between two lines of progress


@dataclass(frozen=True)
class _Job:
    """A photo, and what its files are called."""

    file: Path
    name: Path

    @property
    def image(self) -> str:
        """What the journal calls the photo: the same from any folder, and no other photo's."""
        return os.path.abspath(self.file)


class _Queue:
    """Futures in order, of few enough pixels to be in memory at once."""

    def __init__(self) -> None:
        self.entries: deque[tuple[Any, Future[Any], int]] = deque()
        self.pixels = 0

    def full_with(self, pixels: int) -> bool:
        """Whether photos of so many pixels more are too many; one alone never is."""
        return bool(self.entries) and (self.pixels + pixels > _PIXELS or len(self.entries) >= _AHEAD)

    def put(self, job: Any, future: Future[Any], pixels: int) -> None:
        self.entries.append((job, future, pixels))
        self.pixels += pixels

    def get(self) -> tuple[Any, Future[Any]]:
        """The first, done or not."""
        job, future, pixels = self.entries.popleft()
        self.pixels -= pixels
        return job, future

    def await_all(self) -> None:
        """Returns when all are done. Raises what one of them raised."""
        while self.entries:
            self.get()[1].result()


def predict(
    detector: Detector, words: Sequence[str], output_dir: Path, skip_existing: bool = False, command: str = "predict"
) -> Counter[str]:
    """Predicts photos; writes into `output_dir` what `Result.save` writes of each, in the photos' sub-folders,
    results.jsonl with a line of each the moment it is done, run.json, and report.html. Prints a sentence for each.

    Whatever goes wrong with a photo is its own line. A run that is interrupted leaves what is done, and the page of it.

    Args:
        words: as `find_photos` takes them.
        skip_existing: leave out what an earlier run into the same folder was done with, where the photo and the
            code are the same.
        command: that the files are entered for in the ledger.

    Returns:
        how many photos got which verdict, or FAILED.

    Raises:
        DiffIMLError: as `find_photos` and `Journal`; files of others, or of another model or other settings, or
            of unknown photos, in the way; the device failed.
        OSError: nothing can be written any more.
    """
    photos = find_photos(words, output_dir)
    if left_out := photos.described():
        _logger.info(f"not read: {left_out}")
    with claimed(output_dir):
        journal = Journal(output_dir, detector.description, code_digest(detector.card.constructor))
        run = _Run(detector, output_dir, journal, skip_existing)
        jobs = _named(photos.files, journal)
        places = {(output_dir / part / job.name).parent for job in jobs for part in ("", PREVIEWS)}
        remove_half_written(file for place in places for file in place.glob(".*"))
        done = journal.digests if skip_existing else {}
        names = [job.name for job in jobs if job.image not in done]
        files = [f"{name}{ending}" for name in names for ending in ENDINGS]
        files += [f"{PREVIEWS}/{name}{ending}" for name in names for ending in ENDINGS_OF_PREVIEWS]
        begin(output_dir, command, detector.deciding, [output_dir / name for name in (*FILES, *files)])
        kept = [name for name in files if os.path.lexists(output_dir / name)]
        if kept and not (output_dir / RESULTS).exists():
            raise DiffIMLError(
                f"{output_dir / kept[0]} is of a photo that {RESULTS} told of, which is gone; bring that back, or "
                "choose another --output_dir"
            )
        earlier = journal.names.keys() - done.keys()
        if skip_existing and (others := sum(job.image in earlier for job in jobs)):
            _logger.info(f"{others} photos were done by another version of the code, and are predicted anew")
        journal.begin({job.image for job in jobs})
        try:
            run.all(jobs)
        except KeyboardInterrupt:
            _logger.info(f"{run.verdicts.total()} of {len(jobs)} photos are done, and --skip_existing goes on")
            raise
        finally:
            journal.close()
            write_gallery(output_dir)
    return run.verdicts


def _named(files: Sequence[tuple[Path, Path]], journal: Journal) -> list[_Job]:
    """Each photo with the name that it alone had in earlier runs, or one that no other has."""
    times = Counter(map(name_key, journal.names.values()))
    alone = {image: name for image, name in journal.names.items() if times[name_key(name)] == 1}
    known = [alone.get(os.path.abspath(file)) for file, _ in files]
    new = [relative for (_, relative), name in zip(files, known, strict=True) if name is None]
    names = iter(unique_names(new, journal.names.values(), _RESERVED, (*ENDINGS, *ENDINGS_OF_PREVIEWS)))
    return [
        _Job(file, next(names) if name is None else Path(name)) for (file, _), name in zip(files, known, strict=True)
    ]


class _Run:
    """Arguments as `predict`."""

    def __init__(self, detector: Detector, folder: Path, journal: Journal, skip_existing: bool):
        self.detector, self.folder, self.journal, self.skip_existing = detector, folder, journal, skip_existing
        self.verdicts: Counter[str] = Counter()
        self.lock = Lock()
        self.skipped = 0

    def all(self, jobs: Sequence[_Job]) -> None:
        """Predicts and writes all; what was predicted when it ends early is written too."""
        readers, writers = ThreadPoolExecutor(_WORKERS, "reader"), ThreadPoolExecutor(_WORKERS, "writer")
        behind = _Queue()
        try:
            for job, reading in _shown(self._ahead(jobs, readers, behind), len(jobs)):
                self._one(job, reading, writers, behind)
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown()
        behind.await_all()
        if self.skipped:
            _logger.info(f"{self.skipped} photos were done already")

    def _one(self, job: _Job, reading: Future[Photograph | None], writers: ThreadPoolExecutor, behind: _Queue) -> None:
        """Predicts a photo, and has it written; nothing here keeps its maps after that."""
        try:
            if (photograph := reading.result()) is None:
                self.skipped += 1
                return
            started = time.perf_counter()
            result = self.detector.detect(photograph)
            seconds = time.perf_counter() - started
        except Exception as error:  # of one photo
            self._fail(job, error)
            return
        pixels = photograph.image.size // 3
        while behind.full_with(pixels):
            behind.get()[1].result()
        behind.put(job, writers.submit(self._write, job, photograph, result, seconds), pixels)

    def _ahead(
        self, jobs: Sequence[_Job], readers: ThreadPoolExecutor, behind: _Queue
    ) -> Iterator[tuple[_Job, Future[Any]]]:
        """Each job and what reading it gives, which goes on while the model works on those before, and those `behind`
        it are written; a photo of more than _PIXELS waits for both.
        """
        queue = _Queue()
        for job in jobs:
            pixels = pixels_held(job.file)
            while queue.full_with(pixels):
                yield queue.get()
            if pixels > _PIXELS:
                behind.await_all()
            queue.put(job, readers.submit(self._read, job), pixels)
        while queue.entries:
            yield queue.get()

    def _read(self, job: _Job) -> Photograph | None:
        """The photo; None if an earlier run was done with it, and its mask is there."""
        known = self.journal.digests.get(job.image) if self.skip_existing else None
        there = os.path.exists(self.folder / f"{job.name}{MASK}")
        if known and there and known == sha256(read_content(job.file)).hexdigest():
            return None
        return self.detector.read(job.file)

    def _write(self, job: _Job, photograph: Photograph, result: Result, seconds: float) -> None:
        try:
            target = inside(self.folder, job.name)
            if job.image in self.journal.names:  # of which the files that follow are not
                self.journal.add({"image": job.image, "error": f"{job.file}: its new result was cut off"})
            files = write_result(result, target)
            write_previews(inside(self.folder, Path(PREVIEWS, job.name)), result)
            entry = entry_of(job.image, photograph.digest, result, seconds)
            mask = files["mask"].relative_to(self.folder).as_posix()
            self.journal.add({**entry, "mask": mask, "code": self.journal.code})
            self._count(result.verdict)
            tqdm.write(visible(result.sentence))
        except Exception as error:
            self._fail(job, error)

    def _fail(self, job: _Job, error: Exception) -> None:
        """Notes why a photo has no result. Raises what would fail for all that follow."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EPIPE):
            raise error
        if device_failed(error):
            raise DiffIMLError(
                f"the device failed: {first_line(error)}; what is done is kept, and --skip_existing goes on"
            ) from error
        reason = str(error) if isinstance(error, DiffIMLError) else f"{job.file}: {first_line(error)}"
        _logger.error(reason)
        self.journal.add({"image": job.image, "error": reason})
        self._count(FAILED)

    def _count(self, verdict: str) -> None:
        with self.lock:
            self.verdicts[verdict] += 1


def entry_of(image: str, digest: str, result: Result, seconds: float) -> Entry:
    """What results.jsonl says of an image, in the pixels that are stored, beside the place of its mask."""
    return {
        "image": image,
        "sha256": digest,
        "size": list(result.image.shape[1::-1]),
        "orientation": result.orientation,
        "probability": result.image_probability,
        "verdict": result.verdict,
        "threshold": result.threshold,
        "area": result.area,
        "score": result.score,
        "sentence": result.sentence,
        "regions": [asdict(region) for region in result.regions[:_MOST_REGIONS]],
        "seconds": round(seconds, 4),
    }


def _shown(items: Iterator[Any], total: int) -> Iterator[Any]:
    """The items, with a progress bar; with a line a minute where there is no terminal."""
    if sys.stderr.isatty():
        yield from tqdm(items, "predict", total, unit="img")
        return
    started = said = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= _MINUTE:
            said, rate = now, count / (now - started)
            _logger.info(f"{count} of {total} photos, {rate:.2g} a second, {(total - count) / rate / 60:.0f} min to go")

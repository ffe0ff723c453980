"""A detector in a process of its own, which can be ended when a photo takes too long, and what it answers: a page."""

import json
import multiprocessing
import signal
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from diffiml_plugin.data.images import as_viewed
from diffiml_plugin.errors import DiffIMLError, device_failed
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.files import entry_of
from diffiml_plugin.prediction.pictures import grey, shrunk

_SHOWN = 1200  # pixels, the longer side of a picture on the page


class Examiner:
    """Answers for one photo at a time; the others wait.

    Args:
        make_detector: called in the process; must pickle.
        time_limit_s: for a photo. After it the process is ended, and the next photo starts another.

    Raises:
        DiffIMLError: as `make_detector`.
    """

    def __init__(self, make_detector: Callable[[], Detector], time_limit_s: float):
        self.make_detector, self.time_limit_s = make_detector, time_limit_s
        self.lock = threading.Lock()
        self._start()

    def __enter__(self) -> "Examiner":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self, file: Path, name: str) -> str:
        """What the model says of a photo, as HTML.

        Args:
            name: of the photo, which anyone may have chosen.

        Raises:
            DiffIMLError: the photo cannot be read; it took too long; the process died of it.
        """
        with self.lock:
            if not self.process.is_alive():
                self._start()
            try:
                self.pipe.send((file, name))
                if self.pipe.poll(self.time_limit_s):
                    answer, reason = self.pipe.recv()
                else:
                    self._end()
                    answer = None
                    reason = f"{name} took longer than {self.time_limit_s:g} s; shrink it, or raise --time_limit_s"
            except (EOFError, OSError):
                answer = None
                reason = f"{name}: the model's process ended; its memory was probably full, or its GPU failed"
        if answer is None:
            raise DiffIMLError(reason)
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share locks of threads
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.make_detector), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here
        try:
            reason = self.pipe.recv()
        except EOFError:
            reason = "the model's process ended while it started; its memory was probably full"
        if reason:
            raise DiffIMLError(reason)

    def _end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, make_detector: Callable[[], Detector]) -> None:
    """Of the process: sends why it cannot start, or ""; then for each photo its answer and "", or None and why."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's
    try:
        detector = make_detector()
    except DiffIMLError as error:
        return pipe.send(str(error))
    pipe.send("")
    while True:
        try:
            file, name = pipe.recv()
        except EOFError:  # the server is gone
            return None
        try:
            pipe.send((_examined(detector, file, name), ""))
        except DiffIMLError as error:
            pipe.send((None, str(error).replace(str(file), name)))
        except Exception as error:  # of this photo; the next may be better
            if device_failed(error):
                return None  # but not in this process
            pipe.send((None, f"{name}: {type(error).__name__}"))


def _examined(detector: Detector, file: Path, name: str) -> str:
    """The answer for a photo, with all pictures and the evidence record inside: nothing is written."""
    started = time.perf_counter()
    photograph = detector.read(file)
    result = replace(detector.detect(photograph), name=name)
    record = {
        **entry_of(name, photograph.digest, result, time.perf_counter() - started),
        "bytes": file.stat().st_size,
        "examined": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {**detector.description, "checkpoint": Path(str(detector.description["checkpoint"])).name},
        "versions": {package: version(package) for package in ("diffiml-plugin", "torch", "pillow")},
    }
    views: dict[str, np.ndarray] = {
        "What was found, in red": result.overlay(),
        "Probability: white is 1": result.probability,
    }
    if result.uncertainty is not None:
        views["Uncertainty: white where samples differ most"] = 2 * result.uncertainty
    template = Path(__file__).with_name("answer.html").read_text(encoding="utf-8")
    return jinja2.Template(template, autoescape=True).render(
        result=result,
        record=record,
        views={
            caption: _data(shrunk(as_viewed(view, result.orientation), _SHOWN), "JPEG")
            for caption, view in views.items()
        },
        mask=_data(result.probability, "PNG"),
        json=f"data:application/json;base64,{b64encode(json.dumps(record, indent=1).encode()).decode()}",
    )


def _data(view: np.ndarray, format: str) -> str:
    """A picture, uint8 or values in [0, 1], as an address that holds it."""
    pixels = view if view.dtype == np.uint8 else grey(view)
    file = BytesIO()
    Image.fromarray(pixels).save(file, format)
    return f"data:image/{format.lower()};base64,{b64encode(file.getvalue()).decode()}"

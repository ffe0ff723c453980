"""`benco serve`: a page on this computer that looks at photos, one at a time. None stays, and nothing is sent out."""

import asyncio
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.prediction.examiner import Examiner

_logger = logging.getLogger(__name__)
_HERE = ("127.0.0.1", "localhost", "::1")
_WAITING = 8  # photos that may wait for the model; more are turned away
_PATIENCE = 3  # seconds in which photos may still be answered when the page ends
_LOOK = 60  # seconds between two looks for uploads that were left behind
_SILENCE = 30  # seconds that the next part of a request may take
_ENVELOPE = 2**20  # bytes of a request beside the photo
_UPLOAD = "/upload"  # where photos are sent to; another request is an envelope
_HEADERS = {
    # Whatever the page holds, the browser asks no other computer for anything.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_NO_UPLOAD = "that is no upload, or it was deleted; upload it again"
_SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
_INTRODUCTION = """# Which parts of a photo were manipulated?

Give a photo as its file was made. A screenshot, a picture that was pasted or one that a messenger passed on has lost
most of the traces. Up to {max_upload_mb:g} MB and {time_limit_s:g} seconds. The photo stays on {place}, and is deleted
when the answer is there."""


@dataclass(frozen=True)
class ServeSettings:
    """Where the page is, and what it takes.

    Attributes:
        host, port: of the page. 127.0.0.1 is reached from this computer alone; port 0 is a free one.
        max_upload_mb: of a photo's file.
        time_limit_s: for a photo, from its turn on.

    Raises:
        DiffIMLError: a value outside its range.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    max_upload_mb: float = 50
    time_limit_s: float = 120

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise DiffIMLError(f"--port {self.port} is outside [0, 65535]; 0 takes a free one")
        for name in ("max_upload_mb", "time_limit_s"):
            if not 0 < getattr(self, name) <= 1e5:
                raise DiffIMLError(f"--{name} {getattr(self, name)} is outside (0, 100000]")


def serve(make_detector: Callable[[], Detector], settings: ServeSettings) -> None:
    """Serves the page until a signal ends it.

    Args:
        make_detector: called in a process of its own; must pickle.

    Raises:
        DiffIMLError: gradio is missing; as `make_detector`; the address is not free.
    """
    if not find_spec("gradio"):
        raise DiffIMLError("the page needs the package gradio; pip install 'diffiml-plugin[app]'")
    with (
        _listening(settings) as listener,
        tempfile.TemporaryDirectory(prefix="diffiml-") as folder,
        patch.object(tempfile, "tempdir", folder),  # where uploads are received
        patch.dict(os.environ, _SILENT, GRADIO_TEMP_DIR=folder),  # gradio reads them when it is imported
    ):
        longest = (_WAITING + 1) * settings.time_limit_s + _LOOK  # seconds that an upload may wait for its turn
        with Examiner(make_detector, settings.time_limit_s) as examiner, _swept(Path(folder), longest):
            application = _application(examiner, settings, Path(folder))
            host, port = listener.getsockname()[:2]
            print(f"the page is at http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C ends it", flush=True)
            import uvicorn

            # An open page holds a connection that has no end, of which uvicorn tells as of an error.
            config = uvicorn.Config(application, log_level="critical", timeout_graceful_shutdown=_PATIENCE)
            uvicorn.Server(config).run([listener])


def _listening(settings: ServeSettings) -> socket.socket:
    """Raises DiffIMLError if nothing can listen there."""
    if settings.host not in _HERE:
        _logger.warning(f"whoever reaches {settings.host} can use the page: it has no password and no encryption")
    try:
        family = socket.getaddrinfo(settings.host, settings.port)[0][0]
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise DiffIMLError(
            f"no page can be at --host {settings.host} --port {settings.port}: {error.strerror}; choose another"
        ) from error


def _application(examine: Examiner, settings: ServeSettings, folder: Path) -> Any:
    """What answers a browser; all files that it writes are in `folder`."""
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    _fetch_nothing()
    _keep_uploads_apart()
    most = int(settings.max_upload_mb * 1e6)
    application = gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        _page(examine, settings, folder),
        "/",
        max_file_size=most,
        show_error=False,  # but those that are said here
        theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # no font is fetched
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    if settings.host in _HERE:  # a page elsewhere whose name was made to lead here is turned away
        application.add_middleware(TrustedHostMiddleware, allowed_hosts=[*_HERE, "[::1]"])
    return _guarded(_for_own_page(_with_room(application, most + _ENVELOPE, folder)), most + _ENVELOPE)


def _page(examine: Examiner, settings: ServeSettings, folder: Path) -> Any:
    import gradio

    class Page(gradio.Blocks):
        async def preprocess_data(self, *arguments: Any, **options: Any) -> Any:
            try:
                return await super().preprocess_data(*arguments, **options)
            except (LookupError, TypeError, ValueError) as error:  # a request by hand, such as of a word
                raise gradio.Error(_NO_UPLOAD, print_exception=False) from error

    def answer(photo: dict[str, Any] | None) -> str:
        if photo is None:
            return ""
        file = _upload(photo["path"], folder)
        if file is None:
            raise gradio.Error(_NO_UPLOAD, print_exception=False)
        try:
            return examine(file, str(photo.get("orig_name") or file.name))
        except DiffIMLError as error:
            raise gradio.Error(escape(str(error)), print_exception=False) from error  # which the page reads as HTML
        finally:
            file.unlink(missing_ok=True)

    place = "this computer" if settings.host in _HERE else "the computer that serves this page"
    with Page(title="DiffIML", analytics_enabled=False) as page:
        gradio.Markdown(_INTRODUCTION.format(place=place, **vars(settings)))
        photo = gradio.Image(
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard", "webcam"],
            label="A photo",
            buttons=[],
            height=260,
        )
        shown = gradio.HTML()
        # Without its preprocessing, which opens the file: `data.images` does, within its bounds.
        photo.change(answer, photo, shown, preprocess=False, api_name="examine", concurrency_limit=1)
    return page.queue(max_size=_WAITING)


def _upload(path: str | None, folder: Path) -> Path | None:
    """A file in the folder, whoever names it."""
    with suppress(TypeError, ValueError, OSError):  # no path, a null character, a name that is too long
        file = Path(path or "").resolve()
        return file if file.is_relative_to(folder.resolve()) and file.is_file() else None
    return None


@contextmanager
def _swept(folder: Path, age: float) -> Iterator[None]:
    """Inside, files that nothing was written to for `age` seconds are removed, such as those of a cut connection."""
    over = threading.Event()

    def sweep() -> None:
        while not over.wait(_LOOK):
            for file in filter(Path.is_file, folder.rglob("*")):
                with suppress(FileNotFoundError):  # answered meanwhile
                    if time.time() - file.stat().st_mtime > age:
                        file.unlink()

    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _keep_uploads_apart() -> None:
    """gradio would give two uploads of one photo the same place, and the first answer would take it from the second."""
    from gradio import route_utils

    class Upload(route_utils.GradioUploadFile):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            self.sha.update(os.urandom(16))

    route_utils.GradioUploadFile = Upload  # type: ignore[misc]


def _fetch_nothing() -> None:
    """gradio would download an address that is given as a file."""
    from gradio import Error, processing_utils

    def refuse(*_: Any, **__: Any) -> Any:
        raise Error("addresses are not fetched; upload the file", print_exception=False)

    for name in ("ssrf_protected_download", "async_ssrf_protected_download"):
        setattr(processing_utils, name, refuse)


def _with_room(application: Any, most: int, folder: Path) -> Any:
    """The ASGI application, which gets an upload of so many bytes only where the folder then holds no more than
    _WAITING + 1 times as many, with all uploads that are under way."""
    from starlette.responses import PlainTextResponse

    under_way = 0

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        nonlocal under_way
        if not _is_upload(scope):
            return await application(scope, receive, send)
        if _kept(folder) + (under_way + 1) * most > (_WAITING + 1) * most:
            full = PlainTextResponse("as many photos wait as there is room for; try again later", 503)
            return await full(scope, receive, send)
        under_way += 1
        try:
            await application(scope, receive, send)
        finally:
            under_way -= 1

    return answering


def _is_upload(scope: Any) -> bool:
    return str(scope.get("path", "")).endswith(_UPLOAD)


def _kept(folder: Path) -> int:
    """Bytes of the files in the folder, each of which counts as _ENVELOPE at least, so that they are few, too."""
    total = 0
    for file in filter(Path.is_file, folder.rglob("*")):
        with suppress(FileNotFoundError):  # answered meanwhile
            total += max(_ENVELOPE, file.stat().st_size)
    return total


def _for_own_page(application: Any) -> Any:
    """The ASGI application, which gets nothing that a page elsewhere sends."""
    from starlette.responses import PlainTextResponse

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        if _of_page_elsewhere(scope):
            refusal = PlainTextResponse("pages elsewhere send nothing here; a proxy has to speak HTTPS", 403)
            return await refusal(scope, receive, send)
        await application(scope, receive, send)

    return answering


def _of_page_elsewhere(scope: Any) -> bool:
    """Whether a browser says so. One that speaks plain HTTP to another computer says no Sec-Fetch-Site, and what is no
    browser, such as curl, says nothing."""
    from starlette.datastructures import Headers

    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):  # a link from there; it cannot read the answer
        return False
    headers = Headers(scope=scope)
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    return "origin" in headers and headers["origin"].partition("://")[2] != headers.get("host")


def _guarded(application: Any, most: int) -> Any:
    """The ASGI application with `_HEADERS` on each answer. It gets no more than so many bytes of an upload, and
    _ENVELOPE of another request, none of whose parts may take longer than _SILENCE."""
    from starlette.requests import ClientDisconnect
    from starlette.responses import PlainTextResponse

    headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        left = allowed = most if _is_upload(scope) else _ENVELOPE
        more, answered = scope["type"] == "http", False
        refusal: tuple[str, int] | None = None

        async def receive_on() -> Any:
            nonlocal left, more, refusal
            if not refusal:
                try:
                    message = await asyncio.wait_for(receive(), _SILENCE if more else None)
                    left, more = left - len(message.get("body", b"")), message.get("more_body", False)
                    if left >= 0:
                        return message
                    refusal = f"a request has at most {allowed} bytes here", 413
                except asyncio.TimeoutError:
                    refusal = f"nothing came for {_SILENCE} seconds", 408
            return {"type": "http.disconnect"}

        async def send_on(message: Any) -> None:
            nonlocal answered
            if refusal and not answered:
                return
            if message["type"] == "http.response.start":
                answered = True
                own = [pair for pair in message["headers"] if pair[0].decode().lower() not in _HEADERS]
                message = {**message, "headers": [*own, *headers]}
            await send(message)

        with suppress(ClientDisconnect):
            await application(scope, receive_on, send_on)
        if refusal and not answered:
            await PlainTextResponse(*refusal, _HEADERS)(scope, receive, send)

    return answering

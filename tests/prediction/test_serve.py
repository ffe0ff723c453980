"""The page over HTTP and in a browser, of a server in a process of its own."""

import asyncio
import base64
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from html import escape, unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from PIL import Image

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.prediction import examiner, serve
from diffiml_plugin.prediction.detector import Detector
from diffiml_plugin.settings import CommonSettings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<img src=x onerror=alert(1)>.png"
WATCH = """
import socket
def watched(original):
    def connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            with open({log!r}, "a") as file:
                print(address, file=file)
        return original(self, address)
    return connect
socket.socket.connect = watched(socket.socket.connect)
socket.socket.connect_ex = watched(socket.socket.connect_ex)
resolve = socket.getaddrinfo
def getaddrinfo(host, *arguments, **options):
    if host not in (None, "127.0.0.1", "::1", "localhost"):
        with open({log!r}, "a") as file:
            print(host, file=file)
    return resolve(host, *arguments, **options)
socket.getaddrinfo = getaddrinfo
"""


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def record_in(answer: str) -> dict:
    return json.loads(base64.b64decode(re.search(r'href="data:application/json;base64,([^"]+)"', answer)[1]))


def test_the_answer_holds_all_of_it_and_escapes_the_name(tiny_model, stored, photo):
    detector = Detector(stored(), CommonSettings(device="cpu"))
    answer = examiner._examined(detector, photo, HOSTILE)
    assert HOSTILE not in answer and escape(HOSTILE) in answer
    assert not re.search(r"(src|href)=\"(?!data:)", answer)
    record = record_in(answer)
    assert record["image"] == HOSTILE and record["sha256"] == sha256(photo.read_bytes()).hexdigest()
    assert record["bytes"] == photo.stat().st_size and record["size"] == [50, 30]
    assert record["model"]["model"] == "TinyIML" and record["model"]["settings"]["threshold"] == 0.5
    assert record["model"]["checkpoint"] == "TinyIML.safetensors" and "torch" in record["versions"]
    assert record["sentence"] in unescape(answer)


def test_a_photo_of_one_row_is_shown(tiny_model, stored, tmp_path):
    Image.new("RGB", (5000, 1)).save(tmp_path / "row.png")
    answer = examiner._examined(Detector(stored(), CommonSettings(device="cpu")), tmp_path / "row.png", "row.png")
    assert answer.count("data:image/jpeg") == 2


@pytest.mark.parametrize(
    "wrong", [{"port": 70000}, {"port": -1}, {"max_upload_mb": 0}, {"time_limit_s": -1}, {"time_limit_s": float("nan")}]
)
def test_limits_that_are_none_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(DiffIMLError, match=rf"--{name} {wrong[name]} is outside"):
        serve.ServeSettings(**wrong)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(DiffIMLError, match=r"needs the package gradio; pip install 'diffiml-plugin\[app\]'"):
        serve.serve(lambda: None, serve.ServeSettings())


def test_an_address_that_is_taken_is_refused():
    with serve._listening(serve.ServeSettings(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DiffIMLError, match=f"no page can be at --host 127.0.0.1 --port {port}: .*; choose another"):
            serve._listening(serve.ServeSettings(port=port))


def test_other_computers_are_let_in_with_a_warning(caplog):
    serve._listening(serve.ServeSettings("0.0.0.0", 0)).close()
    assert "whoever reaches 0.0.0.0 can use the page" in caplog.text


def test_what_a_cut_connection_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "_LOOK", 0.01)
    for name in ("a/left", "a/uploading"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.utime(tmp_path / "a" / "left", (1, 1))
    with serve._swept(tmp_path, 3600):
        while (tmp_path / "a" / "left").exists():
            time.sleep(0.01)
    assert (tmp_path / "a" / "uploading").exists()


def test_all_uploads_together_take_a_stated_room(tmp_path):
    pytest.importorskip("starlette")
    arrived = asyncio.Event()

    async def application(scope, receive, send):
        await arrived.wait()
        if scope["path"] == "/gradio_api/upload":
            (tmp_path / f"{time.monotonic_ns()}").touch()  # of which each takes a part of the room
        await send({"type": "http.response.start", "status": 200})

    async def statuses():
        guarded = serve._with_room(application, serve._ENVELOPE, tmp_path)

        async def status(path="/gradio_api/upload"):
            sent = []

            async def send(message):
                sent.append(message)

            await guarded({"type": "http", "path": path}, None, send)
            return sent[0]["status"]

        under_way = [asyncio.create_task(status()) for _ in range(serve._WAITING + 1)]
        await asyncio.sleep(0)
        assert await status() == 503
        arrived.set()
        assert set(await asyncio.gather(*under_way)) == {200} and await status() == 503
        assert await status("/gradio_api/call/examine") == 200
        next(tmp_path.iterdir()).unlink()  # it is answered
        assert await status() == 200 and await status() == 503

    asyncio.run(statuses())


@pytest.mark.parametrize(
    ("method", "said", "status"),
    [
        ("POST", {}, 200),  # curl
        ("POST", {"origin": "http://127.0.0.1:7860"}, 200),
        ("POST", {"origin": "https://our.example", "sec-fetch-site": "same-origin"}, 200),  # before a proxy
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "http://127.0.0.1:8000"}, 403),
        ("POST", {"origin": "null"}, 403),  # a page in a sandbox
        ("POST", {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "cross-site"}, 403),
        ("POST", {"sec-fetch-site": "same-site"}, 403),
        ("GET", {"sec-fetch-site": "cross-site"}, 200),  # a link
    ],
)
def test_what_a_page_elsewhere_sends_is_refused(method, said, status):
    pytest.importorskip("starlette")
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    headers = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:7860", **said}.items()]
    scope = {"type": "http", "method": method, "path": "/gradio_api/upload", "headers": headers}
    asyncio.run(serve._for_own_page(application)(scope, None, send))
    assert sent[0]["status"] == status


@pytest.mark.parametrize(("parts", "status"), [([b"a", b"b"], 408), ([b"a", b"b", b""], 200)])
def test_a_request_that_goes_silent_is_given_up_and_an_answer_may_take_its_time(parts, status, monkeypatch):
    starlette = pytest.importorskip("starlette.requests")
    monkeypatch.setattr(serve, "_SILENCE", 0.01)
    sent = []

    async def run():
        left = iter(parts)

        async def receive():
            body = next(left, None)
            if body is None:
                await asyncio.sleep(60 if status == 408 else 0.1)
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": body, "more_body": body != b""}

        async def application(scope, receive, send):
            assert await starlette.Request(scope, receive).body() == b"ab"
            assert (await receive())["type"] == "http.disconnect"
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": []}
        await serve._guarded(application, 100)(scope, receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == status and (b"x-content-type-options", b"nosniff") in sent[0]["headers"]


class Server:
    """`benco serve` in a folder of its own, with these words."""

    def __init__(self, folder: Path, environment: dict[str, str], *words: object):
        self.temporary, self.calls, self.errors = folder / "temporary", folder / "calls.txt", folder / "errors.txt"
        self.temporary.mkdir()
        (folder / "watch").mkdir()
        (folder / "watch" / "sitecustomize.py").write_text(WATCH.format(log=str(self.calls)))
        path = os.pathsep.join([str(folder / "watch"), environment["PYTHONPATH"]])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "diffiml_plugin", *map(str, words), "--port", "0", "--device", "cpu"],
            env={**environment, "PYTHONPATH": path, "TMPDIR": str(self.temporary), "HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=self.errors.open("w"),
            text=True,
        )
        line = self.process.stdout.readline()
        assert "the page is at http://" in line, self.errors.read_text()
        self.address = re.search(r"http://[\w.:]+", line)[0]

    def upload(self, content: bytes, name: str = "photo.png", **headers: str) -> requests.Response:
        return requests.post(f"{self.address}/gradio_api/upload", files={"files": (name, content)}, headers=headers)

    def examine(self, *photo: object) -> tuple[str, str]:
        """The kind of the last event, and its data."""
        calls = f"{self.address}/gradio_api/call/examine"
        event = requests.post(calls, json={"data": photo}).json()["event_id"]
        lines = requests.get(f"{calls}/{event}").text.strip().splitlines()
        return lines[-2].removeprefix("event: "), lines[-1].removeprefix("data: ")

    def files(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    import torch

    from diffiml_plugin.models.checkpoints import save_checkpoint
    from diffiml_plugin.models.registry import find_model

    torch.manual_seed(1)
    card = find_model("DiffIML")
    flags = card.resolve({"encoder": "resnet10t", "denoiser": "light", "num_inference_steps": 1, "ensemble_size": 2})
    path = tmp_path_factory.mktemp("weights") / "x.safetensors"
    save_checkpoint(path, card.build(flags), card.name, flags, input={"if_padding": True, "padding_mode": "reflect"})
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory, checkpoint, child_environment):
    pytest.importorskip("gradio")
    words = ["serve", "--checkpoint_path", checkpoint, "--max_upload_mb", 2, "--time_limit_s", 600]
    running = Server(tmp_path_factory.mktemp("server"), child_environment, *words)
    yield running
    running.process.kill()
    running.process.wait()


@pytest.mark.slow
def test_a_photo_is_answered_and_forgotten(server, photo):
    (path,) = server.upload(photo.read_bytes()).json()
    assert Path(path).is_relative_to(server.temporary)
    kind, data = server.examine({"path": path, "orig_name": HOSTILE})
    (answer,) = json.loads(data)
    assert kind == "complete" and HOSTILE not in answer and escape(HOSTILE) in answer
    assert record_in(answer)["sha256"] == sha256(photo.read_bytes()).hexdigest()
    assert answer.count("data:image/jpeg") == 3 and server.files() == []


@pytest.mark.slow
def test_the_command_of_its_page(tmp_path, photo, child_environment):
    pytest.importorskip("gradio")
    page = Path(__file__).parents[2] / "docs" / "howto" / "serve.md"
    (command,) = re.findall(r"^    benco (.*)$", page.read_text(encoding="utf-8"), re.M)
    server = Server(tmp_path, child_environment, *command.split())
    try:
        (path,) = server.upload(photo.read_bytes()).json()
        kind, data = server.examine({"path": path, "orig_name": "mine.png"})
        assert kind == "complete" and re.search("mine.png: (tampered|nothing found|cannot say) ", json.loads(data)[0])
    finally:
        assert server.end() == 143


@pytest.mark.slow
def test_what_is_no_photo_is_refused_in_a_sentence(server):
    (path,) = server.upload(b"no photo").json()
    kind, data = server.examine({"path": path, "orig_name": "x.png"})
    assert kind == "error" and "x.png cannot be read as an image" in data and "diffiml-" not in data
    assert server.files() == []


@pytest.mark.slow
def test_too_large_a_file_is_refused(server):
    assert server.upload(bytes(2_100_000)).status_code == 413 and server.files() == []


@pytest.mark.slow
def test_a_request_without_an_end_is_cut(server):
    calls = f"{server.address}/gradio_api/call/examine"
    for content in (f'{{"data": ["{"x" * 4_000_000}"]}}'.encode(), iter([b"x" * 1_000_000] * 4)):
        answer = requests.post(calls, data=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.text) == (413, "a request has at most 1048576 bytes here")
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.slow
def test_one_photo_that_two_upload_is_answered_twice(server, photo):
    paths = [path for _ in range(2) for path in server.upload(photo.read_bytes()).json()]
    for path in paths:
        kind, data = server.examine({"path": path, "orig_name": "x.png"})
        assert kind == "complete" and sha256(photo.read_bytes()).hexdigest() == record_in(json.loads(data)[0])["sha256"]
    assert server.files() == []


@pytest.mark.slow
def test_only_uploads_are_opened(server, photo):
    (upload,) = server.upload(photo.read_bytes()).json()
    others = (str(photo), "http://192.0.2.1/photo.png", f"{upload}/../../{photo}", str(Path(upload).parent), "\0", None)
    for path in others:
        kind, data = server.examine({"path": path, "orig_name": "x.png"})
        assert kind == "error" and "that is no upload, or it was deleted; upload it again" in data
    assert photo.is_file() and not server.calls.exists()
    assert server.examine({"path": upload, "orig_name": "x.png"})[0] == "complete" and server.files() == []


@pytest.mark.slow
def test_a_request_of_another_kind_is_refused_in_a_sentence_without_a_traceback(server, photo):
    odd = (["x"], [5], [[1]], [True], [{"path": 5}], [{"path": {"path": "x"}}], [{"url": "x"}], [], [{"x": [{}]}], [{}])
    for said in odd:
        kind, data = server.examine(*said)
        assert kind == "error" and "that is no upload, or it was deleted; upload it again" in data, said
    assert "Traceback" not in server.errors.read_text()


@pytest.mark.slow
def test_pages_elsewhere_are_kept_out(server):
    answer = requests.get(server.address)
    assert answer.ok and "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert requests.get(server.address, headers={"Host": "elsewhere.example"}).status_code == 400
    answer = server.upload(b"no photo", Origin="http://elsewhere.example")
    assert answer.status_code == 403 and "pages elsewhere send nothing here" in answer.text and server.files() == []
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.slow
def test_a_photo_that_takes_too_long_ends_and_the_next_is_answered(tmp_path, checkpoint, photo):
    from functools import partial

    make = partial(Detector, str(checkpoint), CommonSettings(device="cpu"))
    with examiner.Examiner(make, 1e-6) as examine:
        with pytest.raises(DiffIMLError, match="x.png took longer than 1e-06 s; shrink it, or raise --time_limit_s"):
            examine(photo, "x.png")
        examine.time_limit_s = 600
        assert "data:image" in examine(photo, "x.png")
        examine.process.kill()  # as the kernel does where memory is full
        examine.process.join()
        assert "data:image" in examine(photo, "x.png")


def test_a_process_whose_device_is_lost_ends_and_gives_way_to_another(monkeypatch):
    ours, theirs = multiprocessing.Pipe()
    asked = []

    def read(file):
        asked.append(file)
        if len(asked) > 1:
            pytest.fail("it asked a device that is lost")
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(examiner.signal, "signal", lambda *_: None)
    for _ in range(2):
        ours.send((Path("x.png"), "x.png"))
    examiner._work(theirs, lambda: SimpleNamespace(read=read))
    theirs.close()
    assert ours.recv() == ""  # it had started
    with pytest.raises((EOFError, OSError)):
        ours.recv()


def test_the_process_is_as_before_when_the_page_is_gone(monkeypatch):
    """Loader processes that start later would look for a folder that is not there any more, and wait for ever."""

    def refuse(make_detector, seconds):
        assert tempfile.gettempdir() == os.environ["GRADIO_TEMP_DIR"] != before[0]
        raise DiffIMLError("no model")

    monkeypatch.setattr(serve, "find_spec", lambda name: True)
    monkeypatch.setattr(serve, "Examiner", refuse)
    before = tempfile.gettempdir(), dict(os.environ)
    with pytest.raises(DiffIMLError, match="no model"):
        serve.serve(lambda: None, serve.ServeSettings(port=0))
    assert (tempfile.gettempdir(), dict(os.environ)) == before


@pytest.mark.slow
def test_a_model_that_does_not_start_is_said_at_once(tmp_path):
    from functools import partial

    with pytest.raises(DiffIMLError, match="checkpoint .*nowhere does not exist"):
        examiner.Examiner(partial(Detector, str(tmp_path / "nowhere"), CommonSettings(device="cpu")), 1)


class Browser:
    """Chromium without a window, told what to do over two pipes (the DevTools protocol)."""

    def __init__(self, profile: Path):
        self.count = 0
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        words = f"exec {CHROMIUM} --headless --no-sandbox --disable-gpu --remote-debugging-pipe"
        words += " --use-fake-ui-for-media-stream --use-fake-device-for-media-stream"  # a camera
        command = f"{words} --user-data-dir='{profile}' 3<&{theirs_in} 4>&{theirs_out}"
        with (profile.parent / "browser.txt").open("w") as log:
            self.process = subprocess.Popen(["bash", "-c", command], pass_fds=(theirs_in, theirs_out), stderr=log)
        os.close(theirs_in)
        os.close(theirs_out)
        self.session: dict = {}
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def __call__(self, method: str, **parameters) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters, **self.session}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._received())
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def _received(self) -> bytes:
        parts = []
        while (byte := os.read(self.into, 1)) != b"\0":
            assert byte, "the browser ended"
            parts.append(byte)
        return b"".join(parts)

    def evaluate(self, script: str):
        result = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        self.wait_for(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def wait_for(self, selector: str) -> None:
        """Until there is such an element; 10 minutes at most."""
        found = self.evaluate(
            "new Promise(done => { let tries = 0; const look = () => document.querySelector("
            f"{json.dumps(selector)}) ? done(true) : ++tries > 6000 ? done(false) : setTimeout(look, 100); look(); }})"
        )
        assert found, self.evaluate("document.body.innerText")


@pytest.fixture
def browser(server, tmp_path):
    """Shows the page."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    (tmp_path / "profile").mkdir()
    browser = Browser(tmp_path / "profile")
    try:
        browser("Page.navigate", url=server.address)
        browser.wait_for("input[type=file]")
        yield browser
    finally:
        browser.process.kill()
        browser.process.wait()


@pytest.mark.slow
def test_in_a_browser(server, browser, photo):
    root = browser("DOM.getDocument")["root"]["nodeId"]
    field = browser("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
    browser("DOM.setFileInputFiles", nodeId=field, files=[str(photo)])
    browser.wait_for(".views img")
    assert "photo.png: uncalibrated" in browser.evaluate("document.querySelector('.verdict').textContent")
    widths = browser.evaluate("[...document.querySelectorAll('.views img')].map(picture => picture.naturalWidth)")
    assert widths == [50, 50, 50]
    address = browser.evaluate("document.querySelector('a[download$=\".json\"]').href")
    record = json.loads(base64.b64decode(address.partition("base64,")[2]))
    assert record["sha256"] == sha256(photo.read_bytes()).hexdigest()
    loaded = browser.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert not [name for name in loaded if not name.startswith((server.address, "data:", "blob:"))]
    if folder := os.environ.get("DIFFIML_SCREENSHOTS"):
        picture = browser("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        Path(folder, "serve.png").write_bytes(base64.b64decode(picture))
    assert server.files() == []


@pytest.mark.slow
def test_a_picture_that_is_pasted(server, browser):
    browser("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser("Page.bringToFront")
    browser.evaluate(
        "new Promise(done => { const canvas = document.createElement('canvas'); canvas.width = 50; canvas.height = 30; "
        "canvas.getContext('2d').fillRect(5, 5, 20, 20); canvas.toBlob(done); })"
        ".then(blob => navigator.clipboard.write([new ClipboardItem({'image/png': blob})]))"
    )
    browser.click("button[aria-label='Paste from clipboard']")
    browser.wait_for(".views img")
    assert browser.evaluate("document.querySelector('.views img').naturalWidth") == 50
    assert server.files() == []


@pytest.mark.slow
def test_a_picture_of_the_camera(server, browser):
    browser.click("button[aria-label='Capture from camera']")
    browser.click("button:not([aria-label])")
    shows = "(document.querySelector('video') ?? {}).videoWidth"
    browser.evaluate(f"new Promise(done => {{ const look = () => {shows} ? done() : setTimeout(look, 100); look(); }})")
    browser.click("button[aria-label='capture photo']")
    browser.wait_for(".views img")
    assert server.files() == []


@pytest.mark.slow
def test_nothing_is_left_when_it_ends(server):
    """Last in this file: it ends the server, at which a page is still open."""
    with requests.get(f"{server.address}/gradio_api/heartbeat/a", stream=True) as page:
        assert page.ok and server.end() == 143
    assert list(server.temporary.iterdir()) == [] and "Traceback" not in server.errors.read_text()
    assert not server.calls.exists(), server.calls.read_text()

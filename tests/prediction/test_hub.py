"""Against a stand-in of the hub: its HTTP interface for downloads and uploads, on this machine, and its cache."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from huggingface_hub import constants

from diffiml_plugin import load, load_model
from diffiml_plugin.cli.main import main
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.ledger import LEDGER
from diffiml_plugin.weights import hub
from diffiml_plugin.weights.files import load_weights, read_metadata, save_weights

NAME, COMMIT, TOKEN = "org/tiny", "0123456789abcdef0123456789abcdef01234567", "hf_mine"
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


class Hub(BaseHTTPRequestHandler):
    """Serves /NAME/resolve/REVISION/FILE as the hub does: commit and hash in the headers, 404 with its codes; tells
    what it holds; and takes commits, whose weights come through its store of large files, from who has TOKEN."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    large: dict[str, bytes]  # by SHA-256
    asked: list[str]
    made: list[dict]
    full = False
    private = False
    head = COMMIT  # of the branch, after whoever else pushed

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        if self.path.lower() == f"/api/models/{NAME}?blobs=true":
            return self.say({"id": NAME, "sha": COMMIT, "private": self.private, "siblings": list(self.siblings())})
        self.answer(with_body=True)

    def siblings(self):
        for name, content in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            large = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            yield {"rfilename": name, "blobId": blob, "lfs": large if name == hub.WEIGHTS else None}

    def answer(self, with_body):
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        if rest:  # the client asks for more than files
            self.asked.append(rest)
        revision, _, file = rest.partition("/")
        code = None
        if repository != NAME:
            code = "RepoNotFound"
        elif revision not in ("main", "v1", COMMIT):
            code = "RevisionNotFound"
        elif file not in self.files:
            code = "EntryNotFound"
        body = b"" if code else self.files[file]
        self.send_response(404 if code else 200)
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        else:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def do_PUT(self):
        body = self.body()
        if self.full:
            return self.say({"error": "no room"}, 413)
        self.large[self.path.rpartition("/")[2]] = body
        self.say({})

    def do_POST(self):
        body, place = self.body(), f"http://{self.headers['Host']}"
        if self.path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.say({"error": "you may not write here"}, 403)
        if self.path == "/api/repos/create":
            if self.files:
                return self.say({"error": "you have it", "url": f"{place}/{NAME}"}, 409)
            self.made.append(made := json.loads(body))
            type(self).private = made.get("visibility") == "private" or made.get("private", False)  # as older clients
            return self.say({"url": f"{place}/{NAME}"})
        if self.path == f"/api/models/{NAME}/preupload/main":
            mode = {hub.WEIGHTS: "lfs", hub.CARD: "regular"}
            paths = [file["path"] for file in json.loads(body)["files"]]
            return self.say({"files": [{"path": p, "uploadMode": mode[p], "shouldIgnore": False} for p in paths]})
        if self.path == f"/{NAME}.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            upload = [{**one, "actions": {"upload": {"href": f"{place}/large/{one['oid']}"}}} for one in objects]
            return self.say({"transfer": "basic", "objects": upload})
        assert self.path == f"/api/models/{NAME}/commit/main"
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["value"].get("parentCommit", self.head) != self.head:
            return self.say({"error": "a commit has happened since"}, 412)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]
        self.say({"success": True, "commitOid": COMMIT, "commitUrl": f"{place}/{NAME}/commit/{COMMIT}"})

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def say(self, answer, status=200):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def saved(tiny_model, stored, tmp_path):
    """What `save_pretrained` writes."""
    return load(stored(), device="cpu").save_pretrained(tmp_path / "saved")


@pytest.fixture
def served(saved, tmp_path, monkeypatch):
    """The stand-in, with the saved folder in it; the hub's client asks it, and keeps a cache of its own."""
    files = {file.name: file.read_bytes() for file in saved.iterdir()}
    handler = type("ThisHub", (Hub,), {"files": files, "large": {}, "asked": [], "made": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", place)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a store of its own protocol
    monkeypatch.chdir(tmp_path)
    yield handler
    server.shutdown()
    server.server_close()


def test_what_was_saved_is_the_same_detector(stored, saved, restore):
    assert {file.name for file in saved.iterdir()} == {hub.WEIGHTS, hub.CARD, LEDGER}
    detector, again = load(stored(), device="cpu"), load(saved, device="cpu")
    assert np.array_equal(detector(PHOTO).probability, again(PHOTO).probability)
    card = (saved / hub.CARD).read_text()
    assert "# saved" in card and "load('./saved')('photo.jpg')" in card and restore(saved).card.name == "TinyIML"


def test_settings_are_saved_and_what_was_measured_with_others_is_not(tiny_model, stored, tmp_path):
    path = stored()
    weights, metadata = load_weights(path)
    save_weights(path, weights, {**metadata, "figures": {"a": {"F1": [1, 1, 1]}}, "calibrated_on": ["a"], "data": "x"})
    kept = read_metadata(load(path, device="cpu").save_pretrained(tmp_path / "same") / hub.WEIGHTS)
    assert kept["figures"] and kept["calibrated_on"] == ["a"]
    other = read_metadata(load(path, device="cpu", poison="y").save_pretrained(tmp_path / "other") / hub.WEIGHTS)
    assert other["config"]["poison"] == "y" and other["data"] == "x"
    assert "figures" not in other and "calibrated_on" not in other


@pytest.mark.parametrize("named", [f"hub:{NAME}", f"hub:{NAME}@{COMMIT}", "cache", "elsewhere"])
def test_the_file_of_the_hub_stays_as_it_was_fetched(served, tmp_path, tiny_dataset, capsys, named):
    """Whatever it is called: other programs take it from the cache by the same commit."""
    fetched = hub.fetch(NAME)
    (tmp_path / "elsewhere").symlink_to(fetched.parent)
    path = {"cache": str(fetched), "elsewhere": str(tmp_path / "elsewhere" / hub.WEIGHTS)}.get(named, named)
    data, content = str(tiny_dataset / "list.json"), fetched.read_bytes()
    assert main(["calibrate", "--checkpoint_path", path, "--test_data_path", data, "--device", "cpu"]) == 2
    assert "lies in the hub's cache and stays as it is; name a file by --output" in capsys.readouterr().err
    assert fetched.read_bytes() == content and fetched.is_symlink()


def test_a_model_of_the_hub_is_found_again_offline(served, saved, monkeypatch):
    expected = load(saved, device="cpu")(PHOTO).probability
    assert np.array_equal(load(NAME, device="cpu")(PHOTO).probability, expected)
    assert {path.rpartition("/")[2] for path in served.asked} == {hub.WEIGHTS}  # nothing else, no backbone
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    served.asked.clear()
    for revision in (None, COMMIT):
        assert np.array_equal(load(NAME, revision=revision, device="cpu")(PHOTO).probability, expected)
    assert load_model(f"hub:{NAME}@{COMMIT}").training is False
    assert not served.asked


def test_where_there_is_no_network_the_cache_answers(served, monkeypatch):
    expected = load(NAME, device="cpu")(PHOTO).probability
    nowhere = "http://127.0.0.1:9"  # no one listens
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}")
    assert np.array_equal(load(NAME, device="cpu")(PHOTO).probability, expected)


def test_a_commit_pins_a_model(served):
    load(NAME, revision=COMMIT, device="cpu")
    served.asked.clear()
    assert load(NAME, revision=COMMIT, device="cpu").opened.path.parent.name == COMMIT
    assert not served.asked  # a commit cannot change
    load(NAME, revision="v1", device="cpu")
    assert served.asked


def test_every_verb_takes_a_name_of_the_hub(served, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    words = ["predict", str(tmp_path / "photo.png"), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--checkpoint_path", f"hub:{NAME}@{COMMIT}"]) == 0
    assert main([*words, "--checkpoint_path", "hub:org/gone"]) == 2
    assert "org/gone is no file or folder here, and" in capsys.readouterr().err


@pytest.mark.parametrize("name, revision", [("org/gone", None), (NAME, "gone"), ("a--b/c", None)])
def test_what_the_hub_does_not_have_is_one_sentence(served, name, revision):
    with pytest.raises(DiffIMLError, match="cannot be had from the hub") as refused:
        load(name, revision=revision, device="cpu")
    assert "\n" not in str(refused.value)


def test_a_file_that_lacks_a_tensor_is_not_loaded(served, saved):
    weights, metadata = load_weights(saved / hub.WEIGHTS)
    weights.pop("layers.2.bias")
    save_weights(saved / hub.WEIGHTS, weights, metadata)
    served.files[hub.WEIGHTS] = (saved / hub.WEIGHTS).read_bytes()
    with pytest.raises(DiffIMLError, match=r"1 missing \(layers.2.bias\)"):
        load(NAME, device="cpu")


def test_a_file_that_is_too_large_is_not_fetched(served, monkeypatch, tmp_path):
    size = len(served.files[hub.WEIGHTS])
    monkeypatch.setattr(hub, "_LARGEST", size - 1)
    for revision in (None, COMMIT):
        with pytest.raises(
            DiffIMLError, match=f"{hub.WEIGHTS} of {NAME} has {size} bytes, and at most {size - 1} are "
        ):
            load(NAME, revision=revision, device="cpu")
    assert not list(tmp_path.glob("cache/**/*.safetensors")) and not list(tmp_path.glob("cache/**/*.incomplete"))
    monkeypatch.setattr(hub, "_LARGEST", size)
    load(NAME, device="cpu")


def test_a_path_comes_before_a_name_of_the_hub(served, saved, tmp_path):
    (tmp_path / "org").mkdir()
    saved.rename(tmp_path / NAME)
    load(NAME, device="cpu")
    assert not served.asked


def test_what_is_pushed_is_loaded_by_its_commit(tiny_model, stored, served, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served.files.clear()
    detector = load(stored(), device="cpu")
    commit = detector.push_to_hub(NAME, private=True)
    (made,) = served.made
    assert (made["organization"], made["name"]) == tuple(NAME.split("/"))
    assert served.private
    assert served.files.keys() == {hub.WEIGHTS, hub.CARD} and f"# {NAME}" in served.files[hub.CARD].decode()
    assert f"load('{NAME}')('photo.jpg')" in served.files[hub.CARD].decode()
    pushed = load(NAME, revision=commit, device="cpu")
    assert np.array_equal(pushed(PHOTO).probability, detector(PHOTO).probability)
    assert pushed.opened.path.parent.name == commit == COMMIT


@pytest.mark.parametrize(
    "name", ["hub:a--b/..", "hub:org", "hub:org/tiny@../../mine", "hub:org/tiny@", "hub:org/a b", "hub:\0/x"]
)
def test_what_is_no_name_is_refused_before_any_path_is_made_of_it(served, saved, name):
    with pytest.raises(DiffIMLError, match="is no ORGANISATION/NAME, or that with @ and a commit, tag or branch"):
        load(name, device="cpu")
    with pytest.raises(DiffIMLError, match="expected ORGANISATION/NAME"):
        load(saved, device="cpu").push_to_hub(name)
    assert not served.asked


def test_what_is_no_text_is_refused_before_anything_is_written(saved, tmp_path, monkeypatch):
    detector = load(saved, device="cpu")
    monkeypatch.setattr(type(detector.opened), "save", lambda *_: pytest.fail("weights were written"))
    with pytest.raises(DiffIMLError, match=r"name .*3.*str"):
        detector.push_to_hub(3)
    with pytest.raises(DiffIMLError, match=r"folder .*3.*str"):
        detector.save_pretrained(3)


@pytest.mark.parametrize("kind", [KeyError, TypeError, ValueError, RuntimeError, EOFError])
def test_whatever_the_client_answers_is_one_sentence(stored, tiny_model, monkeypatch, kind):
    def fail(*_, **__):
        raise kind("the connection\nwas cut")

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(hub.huggingface_hub.HfApi, "create_repo", fail)
    for attempt in (lambda: load(NAME, device="cpu"), lambda: load(stored(), device="cpu").push_to_hub(NAME)):
        with pytest.raises(DiffIMLError, match="the connection") as refused:
            attempt()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("token", "full", "told"), [("hf_anothers", False, "403"), (TOKEN, True, "uploading 'model")])
def test_a_push_that_the_hub_refuses_is_one_sentence(tiny_model, stored, served, monkeypatch, token, full, told):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(served, "full", full)
    served.files.clear()
    with pytest.raises(DiffIMLError, match=f"cannot push to org/tiny .*{told}.*hf auth login") as refused:
        load(stored(), device="cpu").push_to_hub(NAME)
    assert "\n" not in str(refused.value)


def test_the_weights_and_the_card_of_others_on_the_hub_are_replaced_on_demand_alone(stored, served, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served.files.clear()
    first, of_other_settings = load(stored(), device="cpu"), load(stored(), device="cpu", poison="y")
    served.files["config.json"] = b"{}"  # stays, whoever's it is
    first.push_to_hub(NAME)
    first.push_to_hub(NAME)  # the same again
    with pytest.raises(DiffIMLError, match=f"{NAME} holds another model.safetensors"):
        of_other_settings.push_to_hub(NAME)
    before, second = dict(served.files), load(stored(width=5), device="cpu")
    with pytest.raises(DiffIMLError, match=f"{NAME} holds another model.safetensors.*replace=True") as refused:
        second.push_to_hub(NAME)
    assert "\n" not in str(refused.value) and served.files == before
    second.push_to_hub(NAME, replace=True)
    assert served.files[hub.WEIGHTS] != before[hub.WEIGHTS] and served.files["config.json"] == b"{}"
    served.files[hub.CARD] = b"# What I wrote by hand"
    with pytest.raises(DiffIMLError, match=f"{NAME} holds another README.md, which would be replaced"):
        second.push_to_hub(NAME)
    assert served.files[hub.CARD] == b"# What I wrote by hand"


def test_what_another_pushed_in_the_meantime_is_not_replaced(stored, served, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served.files.clear()
    monkeypatch.setattr(served, "head", "f" * 40)
    with pytest.raises(DiffIMLError, match=f"cannot push to {NAME} .*412.*pushed there meanwhile"):
        load(stored(), device="cpu").push_to_hub(NAME)
    assert not served.files


def test_a_private_model_is_not_pushed_where_all_can_see_it(stored, served, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    detector = load(stored(), device="cpu")
    with pytest.raises(DiffIMLError, match=f"{NAME} is there already, for all to see"):
        detector.push_to_hub(NAME, private=True, replace=True)
    monkeypatch.setattr(served, "private", True)
    detector.push_to_hub(NAME, private=True, replace=True)


def test_a_push_that_fails_is_one_sentence(tiny_model, stored, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DiffIMLError, match="cannot push to org/tiny .*hf auth login"):
        load(stored(), device="cpu").push_to_hub(NAME)


def test_weights_that_were_replaced_since_are_not_saved_for_the_detectors_own(tiny_model, stored, tmp_path):
    path = stored()
    detector = load(path, device="cpu")
    weights, metadata = load_weights(path)
    save_weights(path, {name: tensor + 1 for name, tensor in weights.items()}, metadata)
    with pytest.raises(DiffIMLError, match="TinyIML.safetensors was replaced while it was in use"):
        detector.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_folder_of_other_weights_or_of_others_is_left_as_it_is(saved, stored, tmp_path):
    detector, before = load(stored(width=5), device="cpu"), (saved / hub.WEIGHTS).read_bytes()
    with pytest.raises(DiffIMLError, match="model.safetensors was made with other weights"):
        detector.save_pretrained(saved)
    with pytest.raises(DiffIMLError, match="model.safetensors was made with other poison"):
        load(stored(), device="cpu", poison="y").save_pretrained(saved)
    load(stored(), device="cpu").save_pretrained(saved)
    (tmp_path / hub.CARD).write_text("mine")
    with pytest.raises(DiffIMLError, match="README.md was not made by this command"):
        load(stored(), device="cpu").save_pretrained(tmp_path)
    assert (saved / hub.WEIGHTS).read_bytes() == before and (tmp_path / hub.CARD).read_text() == "mine"

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from io import BytesIO
from itertools import cycle
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _two_threads():
    torch.set_num_threads(2)


@pytest.fixture
def alone(monkeypatch):
    """In a process of no group, whatever started the tests; gives `monkeypatch`."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Neither read nor fill the user's, here and in the processes that tests start."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def bsds() -> Path:
    """Real tampered photographs: `train` and `val` (list.json, Tp, Gt), `photos` and `regions`."""
    folder = Path(os.environ.get("DIFFIML_TEST_DATA", CHECKOUT.parent / "shared" / "data" / "bsds-tamper"))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; DIFFIML_TEST_DATA names another folder")
    return folder


@pytest.fixture(scope="session")
def miniatures() -> ModuleType:
    """The module miniatures.py beside this file."""
    return _beside("miniatures")


@pytest.fixture(scope="session")
def authors_release() -> ModuleType:
    """The module authors_release.py beside this file."""
    return _beside("authors_release")


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / "tests" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Path:
    """A folder of 3 tampered images (Tp, Gt) and a list.json that adds an authentic one; paths relative to it."""
    root = tmp_path / "tiny"
    random = np.random.default_rng(0)
    for folder in ("Tp", "Gt", "Au"):
        (root / folder).mkdir(parents=True)
    pairs = []
    for index in range(3):
        image = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        mask = np.zeros((64, 96), np.uint8)
        mask[8 * index + 8 : 8 * index + 32, 16:48] = 255
        Image.fromarray(image).save(root / "Tp" / f"{index}.png")
        Image.fromarray(mask).save(root / "Gt" / f"{index}.png")
        pairs.append([f"Tp/{index}.png", f"Gt/{index}.png"])
    Image.fromarray(random.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(root / "Au" / "clean.png")
    (root / "list.json").write_text(json.dumps([*pairs, ["Au/clean.png", "Negative"]]))
    return root


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Registers TinyIML; the script that is the command with it."""
    script = Path(__file__).with_name("tiny_model.py")
    spec = importlib.util.spec_from_file_location("tiny_model", script)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return script


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """For processes that tests start: this checkout, one thread each."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def two_processes(tiny_model: Path, child_environment: dict[str, str]) -> Callable[..., list[tuple[int, str]]]:
    """Starts the command as one run of two processes, each with its own words; gives the exit status of each, and what
    it says."""

    def run(*words: Sequence[str]) -> list[tuple[int, str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started = [
            subprocess.Popen(
                [sys.executable, str(tiny_model), *of_one],
                env={**child_environment, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, of_one in enumerate(words)
        ]
        said = [process.communicate()[0] for process in started]
        return [(process.returncode, text) for process, text in zip(started, said, strict=True)]

    return run


@pytest.fixture(scope="session")
def restore() -> Callable[..., SimpleNamespace]:
    """Builds the model of a checkpoint; gives its card, every flag it was built with, and its stored input, too."""
    from diffiml_plugin.models.checkpoints import read_checkpoint
    from diffiml_plugin.settings import values_of

    def build(path: str | Path, name: str = "", flags=None, shared=None) -> SimpleNamespace:
        checkpoint = read_checkpoint(path, name)
        settled = values_of(checkpoint.settle(flags or {}, shared or {}))
        return SimpleNamespace(
            card=checkpoint.card, model=checkpoint.load(settled), flags=settled, input=checkpoint.input
        )

    return build


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    """Makes a checkpoint of random weights."""

    def make(name: str = "TinyIML", size: int = 64, **flags) -> Path:
        from diffiml_plugin.models.checkpoints import save_checkpoint
        from diffiml_plugin.models.registry import find_model

        torch.manual_seed(1)
        card = find_model(name)
        fast = {"denoiser": "light"} if name == "DiffIML" else {}
        resolved = card.resolve({**fast, **flags})
        model = card.build(resolved, pretrained=name == "DiffIML")  # the zoo's would be downloaded
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(path, model, name, resolved, input={"image_size": size})
        return path

    return make


@pytest.fixture
def scored_settings(tiny_dataset: Path, tmp_path: Path, stored):
    """Settings that score TinyIML on the tiny dataset."""
    from diffiml_plugin.evaluation.settings import TestSettings

    return TestSettings(
        checkpoint_path=str(stored()),
        test_data_path=str(tiny_dataset / "list.json"),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        num_workers=0,
    )


@pytest.fixture
def swapped(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, np.ndarray]]:
    """Has another picture take a file's place before and after each time that Pillow opens an image; returns the
    pictures by the SHA-256 of their files."""

    def start(file: Path) -> dict[str, np.ndarray]:
        opened, contents, pictures = Image.open, [], {}
        for level in range(0, 250, 50):
            picture, content = np.full((30, 50, 3), level, np.uint8), BytesIO()
            Image.fromarray(picture).save(content, "PNG")
            contents.append(content.getvalue())
            pictures[sha256(content.getvalue()).hexdigest()] = picture
        turns = cycle(contents)

        def swap():
            file.with_suffix(".new").write_bytes(next(turns))
            os.replace(file.with_suffix(".new"), file)

        def opening(*arguments, **options):
            swap()
            image = opened(*arguments, **options)
            swap()
            return image

        swap()
        monkeypatch.setattr(Image, "open", opening)
        return pictures

    return start


@pytest.fixture
def cut_off():
    """cut_off(file, line, folder=None): as a kill leaves a file that a command of `folder` was adding lines to."""
    from diffiml_plugin.ledger import Ledger

    def cut(file: Path, line: str, folder: Path | None = None) -> None:
        Ledger(folder or file.parent).enter(file, file, grows=True)
        with open(file, "a") as opened:
            opened.write(line)

    return cut

"""What runs offline asks for no network, not even in vain."""

import socket

import pytest

from diffiml_plugin.cli.main import main


@pytest.fixture
def asked(monkeypatch) -> list[object]:
    """The addresses that were asked for, in vain. Sockets between processes of one machine are left alone."""
    addresses: list[object] = []

    def refuse(*address, **options):
        addresses.append(address)
        raise OSError("no network here")

    def connect(self, address):
        return refuse(address) if self.family in (socket.AF_INET, socket.AF_INET6) else own(self, address)

    own = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "gethostbyname", refuse)
    return addresses


def test_an_attempt_is_seen(asked):
    for attempt in (
        lambda: socket.create_connection(("huggingface.co", 443)),
        lambda: socket.socket(socket.AF_INET).connect(("127.0.0.1", 9)),
    ):
        asked.clear()
        with pytest.raises(OSError, match="no network here"):
            attempt()
        assert asked


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_model")
def test_every_verb_that_computes(asked, tmp_path, tiny_dataset, stored, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny, photos, pairs = str(stored()), str(tiny_dataset / "Tp"), str(tiny_dataset / "list.json")
    small = "--device cpu --image_size 64".split()
    scored = [*small, "--test_data_path", pairs, "--num_workers", "0"]
    sampled = ["--checkpoint_path", "small", *scored]
    for words in (
        ["configs"],
        ["datasets", "list"],
        ["datasets", "describe", "coverage"],
        ["tamper", photos, "--output_dir", "tampered", "--window", "64", "--images", "2"],
        ["train", "--model", "TinyIML", "--data_path", pairs, "--epochs", "1", "--output_dir", "run", *scored],
        ["test", "--checkpoint_path", tiny, "--output_dir", "tested", *scored],
        ["robust", "--checkpoint_path", tiny, "--output_dir", "robust", *scored],
        ["sweep", "--vary", "ensemble_size=1", "--noise_seeds", "1", "--output_dir", "swept", *sampled],
        ["predict", photos, "--output_dir", "masks", *small],
        ["report", "tested", "--output_dir", "report"],
        ["release", tiny, "given.safetensors", "--data", "none"],
        ["complexity", *small],
    ):
        assert main(words) in (0, 1), words
        assert not asked, words


@pytest.mark.parametrize("words", [["configs"], ["datasets", "list"], ["train", "--data_path", "x", "--dry_run"]])
def test_verbs_that_compute_nothing(words, asked):
    assert main(words) == 0
    assert not asked

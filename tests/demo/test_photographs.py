from pathlib import Path

import pytest
from PIL import Image

from diffiml_plugin.demo import photographs as module
from diffiml_plugin.demo.photographs import photographs
from diffiml_plugin.errors import DiffIMLError


def test_photographs_are_readable_and_large_enough():
    for photo in photographs():
        with Image.open(photo.path) as image:
            assert min(image.size) >= 300, photo


def test_no_photograph_is_in_both_parts():
    train, test = photographs("train"), photographs("test")
    assert len(train) >= 8 and len(test) >= 3
    assert not {photo.path for photo in train} & {photo.path for photo in test}
    assert train + test == photographs()


def test_missing_photograph_is_named(monkeypatch):
    monkeypatch.setattr(module, "_folder", lambda package: Path("/nowhere") / package)
    with pytest.raises(DiffIMLError, match=r"12 of 12 .*astronaut\.png.*reinstall"):
        photographs()

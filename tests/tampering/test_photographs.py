import os
import time
from threading import Lock

import numpy as np
from PIL import Image

from diffiml_plugin.data.formats import MOST_PIXELS
from diffiml_plugin.tampering import photographs
from diffiml_plugin.tampering.photographs import Photographs


def test_large_files_are_read_one_after_another(tmp_path, monkeypatch, caplog):
    for number in range(2):
        Image.fromarray(np.full((40, 40, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    for number in range(4):
        with open(tmp_path / f"large{number}.png", "wb") as file:
            file.truncate(3 * MOST_PIXELS)  # it takes no place on the disk
    large, most, lock = 0, 0, Lock()

    def read(path):
        nonlocal large, most
        with lock:
            large += path.stat().st_size > MOST_PIXELS
            most = max(most, large)
        if path.stat().st_size <= MOST_PIXELS:
            return np.zeros((40, 40, 3), np.uint8)
        time.sleep(0.05)
        with lock:
            large -= 1
        raise ValueError("no image")

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(photographs, "read_image", read)
    assert len(Photographs(tmp_path, 512)) == 2 and most == 1
    assert sum("left out" in message for message in caplog.messages) == 4

"""Ten thousand images, one in a hundred broken: none is lost or scored twice, and memory and open files stay."""

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.data.lists import NEGATIVE
from diffiml_plugin.evaluation import scoring
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.evaluate import evaluate
from diffiml_plugin.evaluation.settings import TestSettings

pytestmark = pytest.mark.usefixtures("tiny_model")
IMAGES, BROKEN = 10_000, 100
_MOST_GROWTH = 100 << 10  # kB, between the first tenth of the images and the last


@pytest.mark.slow
def test_ten_thousand_images_of_which_one_in_a_hundred_is_broken(tmp_path, stored, monkeypatch):
    random, pairs = np.random.default_rng(0), []
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 4:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for number in range(IMAGES):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        if number % (IMAGES // BROKEN) == 7:
            path.write_bytes(path.read_bytes()[:40])
        pairs.append([path.name, NEGATIVE if number % 5 == 0 else "mask.png"])
    (tmp_path / "list.json").write_text(json.dumps(pairs))
    seen: list[tuple[int, int]] = []

    def watched(*arguments, keep, **options):
        def kept(records):
            keep(records)
            held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            seen.append((held, len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0))

        return evaluate(*arguments, keep=kept, **options)

    monkeypatch.setattr(scoring, "evaluate", watched)
    results = testing.test(
        TestSettings(
            checkpoint_path=str(stored()),
            test_data_path=str(tmp_path / "list.json"),
            output_dir=str(tmp_path / "out"),
            device="cpu",
            num_workers=0,
            test_batch_size=50,
            keep_going=True,
        )
    )
    (name,) = results["datasets"]
    assert results["datasets"][name]["images"] == IMAGES - BROKEN and results["left_out"] == {name: BROKEN}
    records = [json.loads(line) for line in (tmp_path / "out" / "per_image.jsonl").open()]
    assert len({record["path"] for record in records}) == len(records) == IMAGES - BROKEN
    (early, files), (late, files_at_the_end) = seen[len(seen) // 10], seen[-1]
    assert late - early < _MOST_GROWTH and files_at_the_end == files
    print(f"{early >> 10} MB after a tenth, {late >> 10} MB at the end, {files} open files")

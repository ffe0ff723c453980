import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffiml_plugin.evaluation.settings import TestSettings


@pytest.fixture
def settings(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> TestSettings:
    """A test on the tiny dataset, of no checkpoint yet."""
    return TestSettings(
        test_data_path=str(tiny_dataset / "list.json"), output_dir=str(tmp_path / "out"), device="cpu", num_workers=0
    )


@pytest.fixture
def records() -> Callable[[TestSettings], list[dict]]:
    """records(settings): of each image that a test scored."""
    return lambda settings: [json.loads(line) for line in open(f"{settings.output_dir}/per_image.jsonl")]


@pytest.fixture
def batch_of() -> Callable[..., dict[str, Any]]:
    """batch_of(masks, names="ab"): a batch, but for its images, of masks [B, H, W] of 0 and 1."""

    def made(masks: Sequence[np.ndarray], names: str = "ab") -> dict[str, Any]:
        mask = torch.tensor(np.array(masks), dtype=torch.float64)[:, None]
        labels = mask.amax((1, 2, 3)).long()
        return {"mask": mask, "label": labels, "name": list(names), "index": torch.arange(len(mask))}

    return made

import resource
import sys

import pytest
from torch.utils.data import DataLoader, Dataset

from diffiml_plugin.data.order import start_worker

_SIZE, _ALIVE = 20_000_000, 4  # bytes of a photo's pixels; arrays of as many, at once


class NewPages(Dataset):
    """How many pages the process got from the system while it made and freed such arrays ten times."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            [b"x" * _SIZE for _ in range(_ALIVE)]
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
def test_a_worker_does_not_ask_the_system_for_the_same_memory_again_and_again():
    pages = [int(count) for count in DataLoader(NewPages(), None, num_workers=1, worker_init_fn=start_worker)]
    assert max(pages[1:]) < _ALIVE * _SIZE / resource.getpagesize()  # less than for one of the ten times

import os

from diffiml_plugin import ledger
from diffiml_plugin.evaluation.records import Unfinished


def test_what_another_process_removes_meanwhile_ends_no_run(tmp_path, monkeypatch):
    ledger.begin(tmp_path, "test", {}, [])
    processes = [Unfinished(tmp_path / "unfinished", "weights", process) for process in range(3)]
    for one in processes:
        with one.open("key") as keep:
            keep([])
    unlink, removed = os.unlink, []

    def together(path):
        if not removed:  # the other process is just as far
            unlink(path)
        removed.append(path)
        unlink(path)

    monkeypatch.setattr(os, "unlink", together)
    processes[0].remove("key")
    assert len(removed) == 3 and not (tmp_path / "unfinished").exists()

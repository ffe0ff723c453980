import importlib
import json
import os
import sys
from importlib import metadata
from types import ModuleType

import pytest

from diffiml_plugin import ledger
from diffiml_plugin.data.lists import ImageList
from diffiml_plugin.evaluation.records import Unfinished, code_digest, data_settings, images_of


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


def test_records_that_no_batch_of_this_command_left_are_not_believed(tmp_path):
    ledger.begin(tmp_path, "test", {}, [])
    left = Unfinished(tmp_path / "unfinished", "weights", 0)
    record = {"index": 0, "name": "a.png", "label": 1, "score": 0.5, "f1": 0.25}
    of_all = {"f1": 1.0, "dataset": "another", "path": "b.png", "mask": "c.png"}
    batches = [[{"index": 1}], [{**record, "index": 2, **of_all}], [record]]
    with left.open("key") as keep:
        for batch in batches:
            keep(batch)
    (tmp_path / "unfinished" / "weights_key.1.jsonl").write_text(json.dumps([{**record, "index": 3, "f1": 1.0}]))
    assert left.read("key", 4) == [record]


def test_an_image_is_the_same_wherever_its_dataset_lies():
    def images(folder, *names):
        return images_of([{"dataset": "val", "path": f"{folder}/{name}"} for name in names])

    assert images("/data/val", "x/i.png", "y/i.png") == [("val", "x/i.png"), ("val", "y/i.png")]
    assert images("/data/val", "x/i.png", "y/i.png") == images("elsewhere", "x/i.png", "y/i.png")
    assert images("/", "i.png") == images("/data", "i.png") == [("val", "i.png")] and images("/data") == []
    two = [{"dataset": name, "path": f"/{name}/i.png"} for name in ("a", "b")]
    assert images_of(two) == [("a", "i.png"), ("b", "i.png")]


def test_kinds_that_are_mended_in_a_list_are_another_test():
    lists = [ImageList("list.json", ("a.png",), ("m.png",), kinds) for kinds in (("splice",), ("copy_move",), ())]
    settings = [data_settings([("set", listed)]) for listed in lists]
    assert settings[0] != settings[1] and "kinds of manipulation" not in settings[2]


def test_the_code_of_a_model_is_part_of_the_version(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "layers.py").touch()
    for file in ("own/model.py", "alone.py"):
        (tmp_path / file).write_text("class Mine: ...\n")
    packaged, alone = (importlib.import_module(name).Mine for name in ("own.model", "alone"))
    before = [code_digest(packaged), code_digest(alone)]
    (tmp_path / "own" / "layers.py").write_text("# mended\n")
    code_digest.cache_clear()
    assert code_digest(packaged) != before[0] and code_digest(alone) == before[1]
    (tmp_path / "alone.py").write_text("class Mine: ...  # mended\n")
    code_digest.cache_clear()
    assert code_digest(alone) != before[1]


@pytest.mark.parametrize("source", ["<stdin>", "gone.py"])
def test_a_model_without_a_file_has_a_version_too(monkeypatch, source):
    names = {"__name__": "notebook"}
    exec(compile("class Mine: ...\ndef make(): ...", source, "exec"), names)
    monkeypatch.setitem(sys.modules, "notebook", ModuleType("notebook"))
    assert code_digest(names["Mine"]) == code_digest(names["make"])


def test_a_package_under_another_name_ends_no_test(monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", unknown)
    code_digest.cache_clear()
    assert code_digest(Unfinished)
    code_digest.cache_clear()

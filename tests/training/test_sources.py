import json
from dataclasses import replace

import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.training import engine as training
from diffiml_plugin.training.engine import train


def test_windows_of_several_sizes_take_turns_in_batches_of_as_many_pixels(windows, monkeypatch, log):
    seen, backward = [], training._Run._backward

    def look(run, micro, batch):
        seen.append(tuple(batch["image"].shape))
        return backward(run, micro, batch)

    monkeypatch.setattr(training._Run, "_backward", look)
    whole = train(windows).folder
    assert seen == [(4, 3, 32, 32)] * 2 + [(1, 3, 64, 64)] * 2 + seen[:4]  # two batches are an update
    assert log(whole)[0]["update"] == 2


def test_an_image_that_is_listed_twice_is_told_and_one_with_two_masks_refused(settings, tiny_dataset, caplog):
    pairs = json.loads((tiny_dataset / "list.json").read_text())
    settings = replace(settings, epochs=1, test_data_path="", data_path=str(tiny_dataset / "twice.json"))
    (tiny_dataset / "twice.json").write_text(json.dumps([*pairs, pairs[0]]))
    train(settings)
    assert "twice.json lists 1 images again, such as" in caplog.text
    (tiny_dataset / "twice.json").write_text(json.dumps([*pairs, [pairs[0][0], "Negative"]]))
    with pytest.raises(DiffIMLError, match="0.png is listed with .* and with Negative"):
        train(replace(settings, output_dir=settings.output_dir + "_other"))


def test_two_test_sets_of_the_same_images_are_told(settings, tiny_dataset, caplog):
    sets = {"one": "list.json", "two": "./list.json"}
    (tiny_dataset / "sets.json").write_text(json.dumps(sets))
    train(replace(settings, epochs=1, test_data_path=str(tiny_dataset / "sets.json")))
    assert "one and two are the same images, which a mean counts twice" in caplog.text


def test_windows_of_several_sizes_are_of_a_stream(windows, tiny_dataset):
    for wrong in ({"data_path": str(tiny_dataset / "list.json")}, {"synth_samples": None}):
        with pytest.raises(DiffIMLError, match="--synth_windows is of --data_path synth:FOLDER with --synth_samples"):
            train(replace(windows, **wrong))
    with pytest.raises(DiffIMLError, match="--synth_windows 32,64 cuts windows.*add --if_padding"):
        train(replace(windows, if_padding=False))

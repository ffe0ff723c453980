import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from IMDLBenCo.evaluation import PixelF1
from PIL import Image

from diffiml_plugin import load
from diffiml_plugin.data.lists import NEGATIVE, ImageList, read_list
from diffiml_plugin.data.masks import read_mask
from diffiml_plugin.data.packed import unpack
from diffiml_plugin.data.pairs import PairsDataset, make_test_set, test_transform
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation import scoring
from diffiml_plugin.evaluation import test as testing
from diffiml_plugin.evaluation.evaluate import require_one_process
from diffiml_plugin.evaluation.scores import score_batch
from diffiml_plugin.framework.imdlbenco import MODELS
from diffiml_plugin.models.inputs import Inputs, InputSettings
from diffiml_plugin.models.registry import DIFFIML, RegisteredModel, find_model
from diffiml_plugin.weights.files import load_weights, save_weights

test_transform.__test__ = False
SMALL = {"encoder": "segformer_b0", "codec_weights": "none", "ensemble_size": 2, "num_inference_steps": 2}


def test_results_are_written_and_printed(settings, stored, tiny_dataset, capsys, records):
    path = stored()
    pairs = json.loads((tiny_dataset / "list.json").read_text())
    (tiny_dataset / "list.json").write_text(json.dumps([[*pairs[0], "splice"], *pairs[1:]]))
    results = testing.test(replace(settings, checkpoint_path=str(path)))
    assert json.load(open(f"{settings.output_dir}/results.json")) == results
    assert {
        "command",
        "configuration",
        "model",
        "checkpoint",
        "weights",
        "left_out",
        "threshold",
        "settings",
        "datasets",
        "mean",
    } == results.keys()
    assert results["model"] == "TinyIML" and results["settings"]["image_size"] == 64  # as it was trained
    tiny = results["datasets"]["tiny"]
    assert (tiny["images"], tiny["tampered"]) == (4, 3)
    assert {
        "pixel-level F1",
        "pixel-level IOU",
        "pixel-level AUC",
        "false_alarm_area",
        "image-level F1",
        "image-level AUC",
        "image-level Accuracy",
    } <= tiny.keys()

    lines = records(settings)
    assert [line["path"] for line in lines] == list(read_list(tiny_dataset / "list.json").images)
    assert all(line["dataset"] == "tiny" for line in lines)
    assert [line.get("kind") for line in lines] == ["splice", None, None, None]
    tampered, (authentic,) = lines[:3], lines[3:]
    assert tiny["pixel-level F1"] == pytest.approx(np.mean([line["f1"] for line in tampered]))
    assert authentic["f1"] is None and tiny["false_alarm_area"] == authentic["false_alarm_area"]
    printed = capsys.readouterr().out
    assert f"{tiny['pixel-level F1']:.4f}" in printed and "mean" in printed
    described = Path(settings.output_dir, "table.md").read_text()
    assert f"{tiny['pixel-level F1']:.4f} [" in described and results["command"] in described
    assert results["threshold"] is None and "its own" not in described


def test_a_checkpoints_own_threshold(settings, stored, records):
    path = stored()
    weights, facts = load_weights(path)
    save_weights(path, weights, {**facts, "threshold": 0.4871})
    results = testing.test(replace(settings, checkpoint_path=str(path)))
    assert results["threshold"] == 0.4871
    lines = records(settings)
    expected = np.mean([line["f1_at_own_threshold"] for line in lines if line["label"]])
    assert results["datasets"]["tiny"]["pixel-level F1 at own threshold"] == pytest.approx(expected)
    assert lines[-1]["false_alarm_area_at_own_threshold"] >= lines[-1]["false_alarm_area"]
    assert "F1 at its own 0.4871" in Path(settings.output_dir, "table.md").read_text()


def test_names_of_casia_tell_the_kind(settings, stored, tiny_dataset, records):
    for number, name in enumerate(("Sp_D_a_1", "Sp_D_b_2", "Sp_S_c_3")):
        (tiny_dataset / "Tp" / f"{number}.png").rename(tiny_dataset / "Tp" / f"{name}.png")
        (tiny_dataset / "Gt" / f"{number}.png").rename(tiny_dataset / "Gt" / f"{name}.png")
    (tiny_dataset / "sets.json").write_text(json.dumps({"CASIAv1": ".", "mine": "."}))
    sets = str(tiny_dataset / "sets.json")
    testing.test(replace(settings, test_data_path=sets, checkpoint_path=str(stored())))
    assert [line.get("kind") for line in records(settings)] == ["splice", "splice", "copy_move", None, None, None]
    rows = Path(settings.output_dir, "table.md").read_text().splitlines()[2:]
    assert [row.split()[1:4:2] for row in rows[:5]] == [
        ["CASIAv1", "-"],
        ["CASIAv1", "copy_move"],
        ["CASIAv1", "splice"],
        ["mine", "-"],
        ["mean", "-"],
    ]


@torch.no_grad()
def test_any_model_is_averaged_over_the_mirror_image(settings, stored):
    path = stored("SegFormerIML", encoder="segformer_b0")
    single, both = (
        scoring.open_scoring(replace(settings, checkpoint_path=str(path), tta=tta), None, testing.FILES).model.eval()
        for tta in (None, True)
    )
    batch = {"image": torch.randn(2, 3, 64, 64), "mask": torch.zeros(2, 1, 64, 64), "label": torch.zeros(2)}
    upright, mirrored = single(**batch), single(image=batch["image"].flip(-1))
    found = both(**batch)
    expected = (upright["pred_mask"] + mirrored["pred_mask"].flip(-1)) / 2
    assert torch.allclose(found["pred_mask"], expected) and not torch.allclose(expected, upright["pred_mask"])
    assert torch.allclose(found["pred_label"], (upright["pred_label"] + mirrored["pred_label"]) / 2)


def test_a_model_that_reads_the_jpeg_file_is_not_mirrored(settings, stored, monkeypatch):
    monkeypatch.setattr(RegisteredModel, "reads_jpeg", True)
    with pytest.raises(DiffIMLError, match="TinyIML reads the JPEG file's coefficients.*--tta false"):
        scoring.open_scoring(replace(settings, checkpoint_path=str(stored()), tta=True), None, testing.FILES)


@pytest.mark.parametrize(("experiment", "told"), [("tabel2", "mean 'table2'"), ("table2 table7", "table7: no table")])
def test_an_experiment_that_no_table_has_is_refused(settings, experiment, told):
    with pytest.raises(DiffIMLError, match=told):
        testing.test(replace(settings, experiment=experiment))


def test_weights_that_are_replaced_while_data_are_read_are_refused(settings, stored, monkeypatch):
    changing = replace(settings, checkpoint_path=str(stored()))
    check = scoring.check_lists
    monkeypatch.setattr(scoring, "check_lists", lambda *lists: (stored(width=4, dropout=0.5), check(*lists))[1])
    with pytest.raises(DiffIMLError, match="was replaced while it was in use"):
        testing.test(changing)


def test_diffiml_mirrors_by_itself(settings, stored):
    settings = replace(settings, checkpoint_path=str(stored("DiffIML", **SMALL)), tta=True)
    opened = scoring.open_scoring(settings, None, testing.FILES)
    assert opened.model.diffiml.config.tta and opened.header["settings"]["tta"] is True


def test_several_sets_by_name(settings, stored, tiny_dataset):
    sets = tiny_dataset / "sets.json"
    sets.write_text(json.dumps({"All": "list.json", "Tampered": "."}))
    settings = replace(settings, test_data_path=str(sets), checkpoint_path=str(stored()))
    results = testing.test(settings)
    assert [results["datasets"][name]["images"] for name in ("All", "Tampered")] == [4, 3]
    f1 = [summary["pixel-level F1"] for summary in results["datasets"].values()]
    assert results["mean"]["pixel-level F1"] == pytest.approx(np.mean(f1))
    assert "false_alarm_area" not in results["datasets"]["Tampered"]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_model_that_changes_its_batch_is_scored_by_the_truth(settings, stored, monkeypatch, mirrored):
    settings = replace(settings, checkpoint_path=str(stored()), tta=mirrored)
    expected = testing.test(settings)["datasets"]
    for file in Path(settings.output_dir).iterdir():
        file.unlink()
    tiny = MODELS.module_dict["TinyIML"]
    forward = tiny.forward

    def changing(self, image, mask=None, label=None, **inputs):
        output = forward(self, image, mask, label, **inputs)
        image.zero_(), mask.zero_(), label.unsqueeze_(1)
        return output

    monkeypatch.setattr(tiny, "forward", changing)
    assert testing.test(settings)["datasets"] == expected


def test_an_image_listed_twice_counts_once(settings, stored, tiny_dataset, caplog):
    settings = replace(settings, checkpoint_path=str(stored()))
    expected = testing.test(settings)["datasets"]
    pairs = json.loads((tiny_dataset / "list.json").read_text())
    again = [[f"../tiny/./{image}", mask] for image, mask in pairs[2:3]]
    (tiny_dataset / "list.json").write_text(json.dumps([*pairs, *again, pairs[3]]))
    assert testing.test(settings)["datasets"] == expected
    assert "lists 2 images twice, such as" in caplog.text
    with pytest.raises(DiffIMLError, match="list.json lists 2 images twice.*leave out --strict"):
        testing.test(replace(settings, strict=True))
    (tiny_dataset / "Tp" / "linked.png").hardlink_to(tiny_dataset / pairs[0][0])
    (tiny_dataset / "list.json").write_text(json.dumps([*pairs, ["Tp/linked.png", pairs[0][1]]]))
    assert testing.test(settings)["datasets"] == expected
    assert "lists 1 images twice, such as" in caplog.text
    (tiny_dataset / "list.json").write_text(json.dumps([*pairs, [pairs[0][0], NEGATIVE]]))
    with pytest.raises(DiffIMLError, match="Tp/0.png is listed with .*Gt/0.png and with Negative; remove"):
        testing.test(settings)


def test_faulty_pairs_are_left_out_and_counted(settings, stored, tiny_dataset, caplog, capsys):
    path, pairs = str(stored()), json.loads((tiny_dataset / "list.json").read_text())
    settings = replace(settings, checkpoint_path=path)
    whole = testing.test(settings)
    assert whole["left_out"] == {}
    settings = replace(settings, output_dir=f"{settings.output_dir}_of_the_longer_list")
    (tiny_dataset / "Tp" / "broken.png").write_bytes(b"")
    (tiny_dataset / "list.json").write_text(json.dumps([["Tp/broken.png", "Gt/0.png"], *pairs, ["gone.png", "x.png"]]))
    with pytest.raises(DiffIMLError, match=r"broken.png cannot be decoded.*\(1 more of 6 pairs are faulty\)"):
        testing.test(settings)
    found = testing.test(replace(settings, keep_going=True))
    assert found["datasets"] == whole["datasets"] and found["left_out"] == {"tiny": 2}
    note = "Faulty pairs that --keep_going left out, of which no figure tells: tiny 2."
    out = capsys.readouterr().out
    assert out.count(note) == 1 and out.endswith(f"{note}\n")  # below the second table alone
    assert f"\n\n{note}\n\n" in Path(settings.output_dir, testing.TABLE).read_text()
    assert "2 of 6 pairs of" in caplog.text and "are faulty and left out" in caplog.text
    (tiny_dataset / "list.json").write_text(json.dumps([["gone.png", NEGATIVE]]))
    with pytest.raises(DiffIMLError, match="made with other test_data_path"):
        testing.test(replace(settings, keep_going=True))
    with pytest.raises(DiffIMLError, match="gone.png does not exist"):
        testing.test(replace(settings, keep_going=True, output_dir=f"{settings.output_dir}_anew"))


def test_regions_that_vanish_are_told_below_the_table(settings, stored, tiny_dataset, capsys):
    mask = Image.new("L", (96, 64))
    mask.putpixel((2, 2), 255)  # in a column that no pixel of 64 is taken from
    mask.save(tiny_dataset / "Gt" / "0.png")
    found = testing.test(replace(settings, checkpoint_path=str(stored())))
    assert found["datasets"]["tiny"]["vanished"] == 1
    note = "Tampered images without a tampered pixel at the size that is scored, of F1 0 in any case: tiny 1."
    assert capsys.readouterr().out.endswith(f"\n{note}\n")
    assert f"\n\n{note}\n\n" in Path(settings.output_dir, testing.TABLE).read_text()


@pytest.mark.parametrize("name", ["TinyIML", "DiffIML"])
def test_every_image_counts_once_for_any_batch_size(settings, stored, name, records):
    path = str(stored(name, **(SMALL if name == "DiffIML" else {})))
    figures = []
    for size in (1, 3):
        testing.test(replace(settings, checkpoint_path=path, test_batch_size=size))
        figures.append([[r["f1"] or 0, r["false_alarm_area"] or 0, r["score"]] for r in records(settings)])
    assert len(figures[0]) == 4
    assert np.allclose(*figures, atol=1e-5)


@pytest.mark.parametrize(("name", "flags", "edge"), [("DiffIML", SMALL, None), ("MVSSNet", {}, 7)])
def test_figures_equal_the_frameworks_own(settings, stored, tiny_dataset, name, flags, edge, restore):
    from IMDLBenCo.training_scripts.tester import test_one_epoch as framework_test

    path = stored(name, **flags)
    results = testing.test(replace(settings, checkpoint_path=str(path), edge_mask_width=edge))

    restored = restore(path)
    inputs = InputSettings(64, edge_mask_width=edge)
    dataset = PairsDataset(
        read_list(tiny_dataset), Inputs(inputs), test_transform(), find_model(name).post_function
    )  # normalised
    loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    arguments = SimpleNamespace(no_model_eval=False, test_batch_size=2, distributed=False)
    theirs = framework_test(restored.model, loader, [PixelF1(0.5, "origin")], torch.device("cpu"), 0, args=arguments)
    assert 0 < theirs["pixel-level F1"] < 1
    assert results["datasets"]["tiny"]["pixel-level F1"] == pytest.approx(theirs["pixel-level F1"], abs=1e-6)


def test_two_processes_give_the_figures_of_one(settings, stored, tiny_model, child_environment, records):
    settings = replace(settings, checkpoint_path=str(stored("DiffIML", **SMALL)))
    alone = testing.test(settings)
    both = replace(settings, output_dir=settings.output_dir + "2", test_batch_size=1)
    names = ("checkpoint_path", "test_data_path", "output_dir", "num_workers", "test_batch_size", "device")
    flags = [f"--{name}={getattr(both, name)}" for name in names]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tiny_model), "test"]
    subprocess.run([*run, *flags], check=True, env=child_environment)
    together = json.load(open(f"{both.output_dir}/results.json"))
    assert together["datasets"]["tiny"] == pytest.approx(alone["datasets"]["tiny"], abs=1e-6)
    assert [r["path"] for r in records(both)] == [r["path"] for r in records(settings)]


@pytest.mark.parametrize("other", ["weights", "images or masks", "image_size"])
def test_two_processes_of_different_starts_are_refused(tmp_path, tiny_dataset, stored, two_processes, other):
    """As of two nodes, one of which has an older copy on its own disk: the figures of both would count as one's."""
    (tiny_dataset / "older").mkdir()
    pairs = json.loads((tiny_dataset / "list.json").read_text())
    below = [[f"../{image}", mask if mask == NEGATIVE else f"../{mask}"] for image, mask in pairs[::-1]]
    (tiny_dataset / "older" / "list.json").write_text(json.dumps(below))
    older = stored(width=5).rename(tmp_path / "older.safetensors")
    one = {"checkpoint_path": stored(), "test_data_path": tiny_dataset / "list.json", "image_size": 64}
    two = {"weights": ("checkpoint_path", older), "image_size": ("image_size", 32)}
    two |= {"images or masks": ("test_data_path", tiny_dataset / "older" / "list.json")}
    one |= {"output_dir": tmp_path / "out", "num_workers": 0, "device": "cpu"}
    starts = [["test", *(f"--{k}={v}" for k, v in flags.items())] for flags in (one, one | dict([two[other]]))]
    (first, said), (second, _) = two_processes(*starts)
    assert 0 not in (first, second) and f"the processes of this run differ in {other}" in said
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@torch.no_grad()
def test_a_padded_image_is_tested_whole(tmp_path, settings, stored, mode, records, restore):
    """Images of several sizes, the region where a square of the trained size would cut it off."""
    pairs = []
    for number, (width, height) in enumerate([(40, 30), (100, 70), (64, 64), (50, 130)]):
        mask = np.zeros((height, width), np.uint8)
        mask[height - 8 :, width - 8 :] = 255
        Image.fromarray(np.repeat(mask[..., None], 3, 2)).save(tmp_path / f"i{number}.png")
        Image.fromarray(mask).save(tmp_path / f"m{number}.png")
        pairs.append([f"i{number}.png", f"m{number}.png"])
    (tmp_path / "list.json").write_text(json.dumps(pairs))
    path = str(stored("DiffIML", **SMALL))
    settings = replace(
        settings, checkpoint_path=path, test_data_path=str(tmp_path / "list.json"), if_padding=True, padding_mode=mode
    )
    testing.test(settings)
    found = records(settings)
    model = restore(path).model.eval()
    for record, pair in zip(found, pairs, strict=True):
        listed = ImageList("x", (str(tmp_path / pair[0]),), (str(tmp_path / pair[1]),))
        side = max(64, -(-max(Image.open(tmp_path / pair[0]).size) // 32) * 32)
        sample = make_test_set(listed, InputSettings(side, if_padding=True, padding_mode=mode), DIFFIML)[0]
        batch = unpack(torch.utils.data.default_collate([dict(sample, index=0)]), torch.device("cpu"))
        (alone,) = score_batch(model(**batch), batch)
        assert record["f1"] == pytest.approx(alone["f1"], abs=1e-3) and record["label"] == 1
        assert record["score"] == pytest.approx(alone["score"], abs=1e-3)


@pytest.mark.parametrize(("mode", "tta"), [("constant", False), ("reflect", True)])
def test_a_large_image_is_tested_in_the_tiles_it_is_predicted_in(
    tmp_path, settings, stored, monkeypatch, mode, tta, records
):
    for module in ("models.tiles", "prediction.memory"):
        monkeypatch.setattr(f"diffiml_plugin.{module}.WHOLE", 90 * 500)
    monkeypatch.setattr("diffiml_plugin.models.tiles.SIDE", 384)
    random, pairs = np.random.default_rng(0), []
    for number, size in enumerate([(96, 510), (90, 500)]):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"i{number}.png")
        Image.fromarray(np.where(random.random(size) < 0.5, 255, 0).astype(np.uint8)).save(tmp_path / f"m{number}.png")
        pairs.append([f"i{number}.png", f"m{number}.png"])
    (tmp_path / "list.json").write_text(json.dumps(pairs))
    path = stored("DiffIML", encoder="resnet10t", num_inference_steps=1, ensemble_size=1, tta=tta)
    weights, metadata = load_weights(path)
    save_weights(path, weights, {**metadata, "input": {"image_size": 64, "if_padding": True, "padding_mode": mode}})
    testing.test(
        replace(settings, checkpoint_path=str(path), test_data_path=str(tmp_path / "list.json"), test_batch_size=200)
    )
    detector = load(path, device="cpu")
    assert [detector.read(tmp_path / image).prepared is None for image, _ in pairs] == [True, False]
    for record, (image, mask) in zip(records(settings), pairs, strict=True):
        result, truth = detector(tmp_path / image), read_mask(tmp_path / mask) > 0
        f1 = 2 * (result.mask & truth).sum() / (result.mask.sum() + truth.sum())
        assert record["f1"] == pytest.approx(f1, abs=1e-4) and record["score"] == pytest.approx(result.score, abs=1e-4)


def test_records_tell_the_content_of_image_and_mask(settings, stored, tiny_dataset, tmp_path, records):
    def contents(root, name):
        out, data = str(tmp_path / name), str(root / "list.json")
        testing.test(made := replace(settings, checkpoint_path=path, test_data_path=data, output_dir=out))
        return [record["content"] for record in records(made)]

    path, moved = str(stored()), tmp_path / "moved"
    shutil.copytree(tiny_dataset, moved)
    before = contents(tiny_dataset, "a")
    assert contents(moved, "b") == before and len(set(before)) == len(before)
    shutil.copy(moved / "Tp" / "1.png", moved / "Tp" / "0.png")
    shutil.copy(moved / "Gt" / "1.png", moved / "Gt" / "2.png")
    after = contents(moved, "c")
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, False, True]


def test_testing_in_training_mode_needs_one_process(settings):
    require_one_process(replace(settings, no_model_eval=True), 1)
    with pytest.raises(DiffIMLError, match="2 processes would share batch statistics"):
        require_one_process(replace(settings, no_model_eval=True), 2)


def test_bad_input_is_named(settings, stored):
    good = replace(settings, checkpoint_path=str(stored()))
    for wrong, message in (
        ({"test_data_path": ""}, "by --test_data_path"),
        ({"test_data_path": "gone"}, "gone does not exist"),
        ({"checkpoint_path": "gone"}, "checkpoint gone does not exist"),
    ):
        with pytest.raises(DiffIMLError, match=message):
            testing.test(replace(good, **wrong))

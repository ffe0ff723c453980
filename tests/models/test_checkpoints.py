import argparse
import errno
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.framework.imdlbenco import MODELS
from diffiml_plugin.models import checkpoints
from diffiml_plugin.models.checkpoints import find_checkpoint, read_checkpoint, save_checkpoint
from diffiml_plugin.models.registry import DIFFIML, SEGFORMER, find_model
from diffiml_plugin.models.release import release
from diffiml_plugin.training.resume import STATE, save_state
from diffiml_plugin.weights import hub
from diffiml_plugin.weights.files import load_weights, read_metadata, save_weights

pytestmark = pytest.mark.usefixtures("tiny_model")


def test_a_name_of_the_hub_is_no_file_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub:org").mkdir()
    (tmp_path / "hub:org" / "name").touch()
    monkeypatch.setattr(hub, "fetch", lambda name: tmp_path / "fetched" / name)
    assert find_checkpoint("hub:org/name") == tmp_path / "fetched" / "org" / "name"


@pytest.fixture
def tiny(tmp_path):
    """A stored TinyIML of width 6 and its model."""
    card = find_model("TinyIML")
    flags = card.resolve({"width": 6, "image_size": 64})
    model = card.build(flags)
    save_checkpoint(tmp_path / checkpoints.BEST, model, "TinyIML", flags, input={"image_size": 64}, epoch=3)
    return tmp_path, model


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_checkpoint_rebuilds_its_model_without_flags(tiny, restore):
    folder, model = tiny
    for path in (folder, folder / checkpoints.BEST):  # a folder means its best weights
        restored = restore(path)
        assert same(restored.model, model)
        assert (restored.card.name, restored.flags["width"], restored.input) == ("TinyIML", 6, {"image_size": 64})


def test_flags_may_change_how_it_runs_but_not_what_it_is(tiny, restore):
    folder, _ = tiny
    assert restore(folder, flags={"poison": "x"}).model.poison == "x"
    with pytest.raises(DiffIMLError, match="TinyIML.*of another shape.*layers.0.weight"):
        restore(folder, flags={"width": 8})
    with pytest.raises(DiffIMLError, match="holds a TinyIML, not a DiffIML"):
        restore(folder, "DiffIML")


def test_a_file_is_not_blamed_for_a_callers_value(tiny, restore):
    with pytest.raises(DiffIMLError, match=r"says, but with --width -1 \(RuntimeError\); leave that out"):
        restore(tiny[0], flags={"width": -1})


def test_input_settings_of_the_run_come_before_the_stored_ones(tiny, restore):
    folder, _ = tiny
    assert restore(folder, shared={"image_size": 128, "seed": 1}).flags["image_size"] == 128
    assert restore(folder, shared={"image_size": None}).flags["image_size"] == 64


def test_diffiml_refuses_another_architecture_and_takes_other_sampling(tmp_path, restore):
    flags = DIFFIML.resolve({"encoder": "segformer_b0", "codec_weights": "none"})
    save_checkpoint(tmp_path / "x.safetensors", DIFFIML.build(flags), "DiffIML", flags)
    with pytest.raises(DiffIMLError, match="was trained with --encoder segformer_b0.*not segformer_b3"):
        restore(tmp_path / "x.safetensors", flags={"encoder": "segformer_b3"})
    restored = restore(tmp_path / "x.safetensors", flags={"ensemble_size": 2, "encoder": "segformer_b0"})
    assert restored.model.diffiml.config.ensemble_size == 2
    assert restored.flags["encoder_weights"] == "none"


@pytest.mark.parametrize("card", [DIFFIML, SEGFORMER], ids=lambda card: card.name)
def test_low_rank_weights_are_part_of_a_checkpoint(card, tmp_path, restore):
    codec = {"codec_weights": "none"} if card is DIFFIML else {}
    flags = card.resolve({"encoder": "test_vit", "lora": 2, **codec})
    model, path = card.build(flags), tmp_path / "x.safetensors"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    save_checkpoint(path, model, card.name, flags)
    restored = restore(path)
    assert same(restored.model, model) and restored.flags["lora"] == 2
    with pytest.raises(DiffIMLError, match="was trained with --lora 2.*not 4"):
        restore(path, flags={"lora": 4})
    weights, facts = load_weights(path)
    lacking = next(name for name in weights if "lora_B" in name)
    save_weights(path, {name: tensor for name, tensor in weights.items() if name != lacking}, facts)
    with pytest.raises(DiffIMLError, match=f"1 missing .*{lacking}"):
        restore(path)


def test_the_frameworks_checkpoints_load(tiny, tmp_path, restore):
    _, model = tiny
    args = argparse.Namespace(model="TinyIML", lr=1e-4)
    torch.save({"model": model.state_dict(), "args": args, "epoch": 3}, tmp_path / "checkpoint-3.pth")
    assert same(restore(tmp_path / "checkpoint-3.pth", flags={"width": 6}).model, model)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    assert same(restore(tmp_path / "bare.pth", "TinyIML", {"width": 6}).model, model)
    with pytest.raises(DiffIMLError, match="bare.pth does not say which model it holds; pass --model"):
        restore(tmp_path / "bare.pth")


def test_flags_that_json_cannot_hold_keep_their_default():
    flags = find_model("SparseViT").resolve({})  # it has a layer among them
    assert checkpoints.storable({**flags, "device": "cuda"}) == {k: v for k, v in flags.items() if k != "norm_layer"}
    json.dumps(checkpoints.storable(flags))


def test_missing_and_damaged_files_are_named(tmp_path, restore):
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"model": 3}, tmp_path / "odd.pth")
    for path, message in (
        ("text.pth", r"text.pth .* is truncated or no file of weights"),
        ("odd.pth", r"odd.pth .* holds no named tensors"),
        ("gone", "gone does not exist"),
        (".", "has no best.safetensors"),
    ):
        with pytest.raises(DiffIMLError, match=message):
            restore(tmp_path / path, "TinyIML")


def test_a_full_disk_leaves_earlier_files_alone(tiny, tmp_path, monkeypatch):
    folder, model = tiny
    state = folder / STATE
    save_state(state, {"epoch": 1})
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiffIMLError, match="best.safetensors.*No space left"):
        save_checkpoint(folder / checkpoints.BEST, model, "TinyIML", {})
    with pytest.raises(DiffIMLError, match="training_state.pt.*No space left"):
        save_state(state, {"epoch": 2})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_released_checkpoint_is_the_same_model_in_half_the_bytes(tiny, tmp_path, restore):
    folder, model = tiny
    release([folder], tmp_path / "given.safetensors", {"data": "none"})
    given = restore(tmp_path / "given.safetensors")
    assert all(
        torch.equal(a.half().float(), b)
        for a, b in zip(model.state_dict().values(), given.model.state_dict().values(), strict=True)
    )
    metadata = read_metadata(tmp_path / "given.safetensors")
    assert metadata["data"] == "none" and "epoch" not in metadata
    stored = load_weights(tmp_path / "given.safetensors")[0]
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}


@pytest.mark.parametrize("value", [float("nan"), 1e5])
def test_what_half_precision_cannot_hold_is_not_given_away(tiny, tmp_path, value):
    weights, metadata = load_weights(tiny[0] / checkpoints.BEST)
    weights["layers.0.bias"][0] = value
    save_weights(tmp_path / "odd.safetensors", weights, metadata)
    with pytest.raises(DiffIMLError, match=r"odd.safetensors cannot be .*1 of its tensors \(layers.0.bias\)"):
        release([tmp_path / "odd.safetensors"], tmp_path / "given.safetensors", {})
    assert not (tmp_path / "given.safetensors").exists()


def test_the_mean_of_two_checkpoints_is_released_with_the_settings_of_the_last(tiny, tmp_path, restore):
    folder, model = tiny
    card = find_model("TinyIML")
    other = card.build(card.resolve({"width": 6}))
    save_checkpoint(tmp_path / "other.safetensors", other, "TinyIML", {"width": 6, "poison": "x"})
    release([folder, tmp_path / "other.safetensors"], tmp_path / "given.safetensors", {})
    given = restore(tmp_path / "given.safetensors")
    assert given.flags["poison"] == "x"
    for a, b, mean in zip(*(m.state_dict().values() for m in (model, other, given.model)), strict=True):
        assert torch.allclose((a + b) / 2, mean, atol=1e-3)
    wide = tmp_path / "wide.safetensors"
    save_checkpoint(wide, card.build(card.resolve({"width": 8})), "TinyIML", {})
    with pytest.raises(DiffIMLError, match="best.safetensors and .*wide.safetensors have no mean.*the shapes"):
        release([folder / checkpoints.BEST, wide], tmp_path / "mean.safetensors", {})


@pytest.mark.parametrize(
    ("flags", "scale", "different"),
    [({"beta_end": 0.03}, 1, "--beta_end: 0.02 and 0.03"), ({}, 2, "their latent codec")],
)
def test_models_of_other_latents_or_another_schedule_have_no_mean(tmp_path, flags, scale, different):
    for name, factor, changed in (("a", 1, {"beta_end": 0.02}), ("b", scale, flags)):
        weights = {"diffiml.codec.x": factor * torch.ones(1)}
        save_weights(tmp_path / f"{name}.safetensors", weights, {"model": "DiffIML", "config": changed})
    with pytest.raises(DiffIMLError, match=different):
        release([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path / "mean.safetensors", {})


def test_a_calibration_goes_along_with_one_checkpoint_and_not_with_a_mean(tiny, tmp_path):
    calibrated = {"threshold": 0.35, "calibration": {"intercept": 1.0}, "calibrated_on": ["even"]}
    weights, metadata = load_weights(tiny[0] / checkpoints.BEST)
    sources = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for factor, source in enumerate(sources, 1):
        save_weights(source, {name: factor * tensor for name, tensor in weights.items()}, {**metadata, **calibrated})
    release(sources[:1], tmp_path / "one.safetensors", {})
    release(sources, tmp_path / "mean.safetensors", {})
    one, mean = (read_metadata(tmp_path / f"{name}.safetensors") for name in ("one", "mean"))
    assert {name: one[name] for name in calibrated} == calibrated
    assert not calibrated.keys() & mean.keys()


@pytest.mark.parametrize("way", ["folder", "link", "other facts", "half precision"])
def test_no_weights_count_twice_in_a_mean(tiny, tmp_path, way):
    best, other, again = tiny[0] / checkpoints.BEST, tmp_path / "other.safetensors", tmp_path / "again.safetensors"
    weights, metadata = load_weights(best)
    save_weights(other, {name: 2 * tensor for name, tensor in weights.items()}, metadata)
    if way == "folder":
        again = tiny[0]
    elif way == "link":
        again.symlink_to(best)
    elif way == "other facts":
        save_weights(again, weights, {**metadata, "threshold": 0.35})
    else:
        release([best], again, {})
    with pytest.raises(DiffIMLError, match=f"{best} and {again} hold the same weights"):
        release([best, other, again], tmp_path / "mean.safetensors", {})
    assert not (tmp_path / "mean.safetensors").exists()


def test_a_forgotten_target_does_not_cost_the_last_checkpoint(tiny):
    last = tiny[0] / checkpoints.BEST
    before = last.read_bytes()
    with pytest.raises(DiffIMLError, match="best.safetensors is there already and is not overwritten"):
        release([tiny[0]], last, {})
    assert last.read_bytes() == before


@pytest.mark.parametrize(
    "place", ["small/best.safetensors", "small/last.safetensors", "small/model.safetensors", "small"]
)
def test_weights_of_a_released_models_name_are_not_passed_over(tiny, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    assert checkpoints.find_checkpoint("small").suffix == ".safetensors"
    Path(place).parent.mkdir(exist_ok=True)
    shutil.copy(tiny[0] / checkpoints.BEST, place)
    with pytest.raises(DiffIMLError, match=r"small is a model that travels .* of weights here: say \./small"):
        checkpoints.find_checkpoint("small")
    assert checkpoints.find_checkpoint(f"./{place}").samefile(place)


@pytest.mark.parametrize("trained", [checkpoints.BEST, checkpoints.LAST])
def test_of_a_trainings_weights_and_saved_ones_in_one_folder_neither_is_meant(tiny, tmp_path, trained):
    (tmp_path / "run").mkdir()
    for name in (trained, "model.safetensors"):
        shutil.copy(tiny[0] / checkpoints.BEST, tmp_path / "run" / name)
    with pytest.raises(DiffIMLError, match="run holds the weights of a training, and model.safetensors that"):
        checkpoints.find_checkpoint(tmp_path / "run")
    assert checkpoints.find_checkpoint(tmp_path / "run" / trained).name == trained


def test_an_empty_name_means_no_folder_that_one_happens_to_be_in(tiny, monkeypatch):
    monkeypatch.chdir(tiny[0])
    assert checkpoints.find_checkpoint(".").name == checkpoints.BEST
    with pytest.raises(DiffIMLError, match="the checkpoint's path is empty"):
        checkpoints.find_checkpoint("")


def test_a_name_that_is_neither_a_file_nor_released_is_refused(tmp_path, restore):
    with pytest.raises(DiffIMLError, match="smal does not exist.*small"):
        restore("smal")


@pytest.mark.parametrize("suffix", [".PTH", ".ckpt", ".bin"])
def test_files_of_pytorch_by_any_of_their_names(tmp_path, suffix, restore):
    path = tmp_path / f"weights{suffix}"
    model = find_model("TinyIML").build({})
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    restored = restore(path, "TinyIML")
    assert torch.equal(restored.model.layers[0].weight, model.layers[0].weight)
    with pytest.raises(DiffIMLError, match="does not say which model it holds; pass --model"):
        restore(path)
    path = path.rename(tmp_path / "weights.safetensors")
    with pytest.raises(DiffIMLError, match=r"is a file of PyTorch, whatever its name; call it \.pth"):
        restore(path)


def test_threads_that_load_at_once_get_their_weights_and_leave_the_others_alone(tiny, tmp_path, capsys):
    folder, model = tiny
    checkpoint, loaded = checkpoints.read_checkpoint(folder), {}
    inside, go_on = ({name: Event() for name in "ab"} for _ in range(2))

    def start(name: str) -> Thread:
        def constructor(**flags):
            inside[name].set()
            assert go_on[name].wait(60)
            print("by a constructor")
            return checkpoint.card.constructor(**flags)

        mine = replace(checkpoint, card=replace(checkpoint.card, constructor=constructor))
        thread = Thread(target=lambda: loaded.update({name: mine.load(checkpoint.flags)}))
        thread.start()
        return thread

    before = torch.load, torch.nn.Module.load_state_dict, torch.nn.Module.register_parameter, sys.stdout
    torch.save(model.state_dict(), tmp_path / "own.pth")
    first = start("a")
    assert inside["a"].wait(60)
    own = find_model("TinyIML").constructor(width=6)
    own.load_state_dict(torch.load(tmp_path / "own.pth", weights_only=True))
    torch.nn.Linear(10_000, 10_000, device="meta")  # more than the file could fill
    print("by this thread")
    second = start("b")
    inside["b"].wait(0.5)  # which it is not before the first has ended
    go_on["a"].set()
    first.join()
    go_on["b"].set()
    second.join()
    assert same(own, model) and same(loaded["a"], model) and same(loaded["b"], model)
    assert before == (torch.load, torch.nn.Module.load_state_dict, torch.nn.Module.register_parameter, sys.stdout)
    assert capsys.readouterr().out == "by this thread\n"


def test_weights_are_of_the_model_whose_name_they_say_exactly(stored, monkeypatch):
    path = stored()
    monkeypatch.setitem(MODELS.module_dict, "tinyiml", MODELS.module_dict["TinyIML"])
    monkeypatch.delitem(MODELS.module_dict, "TinyIML")
    with pytest.raises(DiffIMLError, match="holds a TinyIML, not a tinyiml; register a model TinyIML"):
        read_checkpoint(path)

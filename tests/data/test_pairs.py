import json
import os
import random
import shutil
import signal
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffiml_plugin.cli.main import _mend
from diffiml_plugin.data.lists import NEGATIVE, ImageList, read_list
from diffiml_plugin.data.order import EpochLoader, SeededDataset, make_loader, plan_epoch, plan_test, plan_turns
from diffiml_plugin.data.packed import unpack
from diffiml_plugin.data.pairs import (
    BalancedPairsDataset,
    PairsDataset,
    framework_arguments,
    make_test_set,
    test_transform,
)
from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.evaluation.robust import perturbed
from diffiml_plugin.framework.adapters import DiffIMLModel, diffiml_post_func
from diffiml_plugin.framework.imdlbenco import JsonDataset
from diffiml_plugin.method.diffiml import DiffIML, draw_noise
from diffiml_plugin.models.inputs import Inputs, InputSettings
from diffiml_plugin.models.registry import DIFFIML
from diffiml_plugin.settings import layer, values_of
from diffiml_plugin.training.settings import TrainSettings
from diffiml_plugin.training.sources import read_training_set, train_transform

test_transform.__test__ = False
CPU = torch.device("cpu")
SMALL = {"encoder": "resnet10t", "codec_weights": "none", "ensemble_size": 2, "num_inference_steps": 1}


def load(dataset, workers, epoch=0):
    batches = [(0, 1), (2,), (1, 0)]
    return list(make_loader(SeededDataset(dataset, seed=1), epoch, batches, workers, CPU))


@pytest.fixture
def augmented(tiny_dataset):
    return PairsDataset(read_list(tiny_dataset), Inputs(InputSettings(64)), train_transform(), None)


def test_samples_do_not_depend_on_workers_or_company(augmented):
    alone, shared = load(augmented, 0), load(augmented, 2)
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["mask"], other["mask"])
    assert torch.equal(alone[0]["image"][0], alone[2]["image"][1])


def test_augmentation_changes_with_epoch_and_seed(augmented):
    first = load(augmented, 0)[0]["image"]
    assert not torch.equal(first, load(augmented, 0, epoch=1)[0]["image"])
    other = SeededDataset(augmented, seed=2)[0, 0]["image"]
    assert not torch.equal(first[0], other)


def test_loading_leaves_the_random_states_alone(augmented):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    load(augmented, 0)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_balanced_sampling_is_seeded(tiny_dataset, tmp_path):
    (tmp_path / "balanced.json").write_text(json.dumps([["JsonDataset", "tiny/list.json"], ["ManiDataset", "tiny"]]))
    settings = TrainSettings(data_path=str(tmp_path / "balanced.json"))
    dataset = read_training_set(settings, InputSettings(64), None, check=True)
    assert isinstance(dataset, BalancedPairsDataset) and len(dataset) == 2 * 1840
    seeded = SeededDataset(dataset, 3)
    names = [seeded[0, index]["name"] for index in range(12)]
    assert names == [seeded[0, index]["name"] for index in range(12)]
    assert len(set(names)) > 1


def settled(settings, stored=None):
    return InputSettings(**values_of(InputSettings.settle(settings, layer(stored or {}, "stored"))))


def test_input_settings_take_the_flags_then_what_was_stored():
    stored = {"image_size": 256, "if_padding": True, "edge_mask_width": 7}
    assert settled(TrainSettings()) == InputSettings(512, False, None)
    assert settled(TrainSettings(), stored) == InputSettings(256, True, 7)
    assert settled(TrainSettings(image_size=64, if_resizing=True), stored) == InputSettings(64, False, 7)
    assert settled(TrainSettings(padding_mode="reflect"), stored) == InputSettings(256, True, 7, "reflect")
    with pytest.raises(DiffIMLError, match="add --if_padding"):
        settled(TrainSettings(padding_mode="reflect"))


def test_padding_tells_real_pixels(tiny_dataset):
    sample = PairsDataset(read_list(tiny_dataset), Inputs(InputSettings(128, if_padding=True)), test_transform())[0]
    assert sample["image"].shape == (3, 128, 128)
    assert sample["shape_mask"].sum() == 64 * 96


def test_reflection_fills_a_frame_of_the_images_own_and_is_no_real_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(np.full((50, 90), 255, np.uint8)).save(tmp_path / "mask.png")
    listed = ImageList("x", (str(tmp_path / "image.png"),) * 2, (str(tmp_path / "mask.png"), NEGATIVE))
    settings = InputSettings(128, if_padding=True)
    dataset, padded = (
        PairsDataset(listed, Inputs(replace(settings, padding_mode=mode), 32), test_transform())
        for mode in ("reflect", "constant")
    )
    sample, black = dataset[0], padded[0]
    assert dataset.frame(0) == (64, 96) and sample["image"].shape == (3, 64, 96)
    assert sample["shape_mask"].sum() == sample["mask"].sum() == 50 * 90
    assert torch.equal(sample["image"][:, :50, :90], black["image"][:, :50, :90])
    assert torch.equal(sample["image"][:, 50], sample["image"][:, 48])
    assert torch.equal(sample["image"][:, :, 90:].flip(-1), sample["image"][:, :, 83:89])
    assert plan_test(dataset, range(2), 1) == [(0,), (1,)], "small frames make no larger batches"
    assert plan_test(dataset, range(2), 1, 64 * 96) == [(0,), (1,)]
    with pytest.raises(DiffIMLError, match="image.png takes 0.0 megapixels with its padding, and the memory here"):
        plan_test(dataset, range(2), 1, 64 * 96 - 1)
    with pytest.raises(DiffIMLError, match="--padding_mode reflect"):
        Inputs(replace(settings, padding_mode="reflect"))


def test_padding_that_cuts_images_is_said(caplog):
    InputSettings(64).warn_if_cut(96)
    InputSettings(96, if_padding=True).warn_if_cut(96)
    assert not caplog.messages
    InputSettings(64, if_padding=True).warn_if_cut(96)
    assert "cuts images of up to 96 pixels to their upper left 64x64" in caplog.text


def test_a_stream_that_padding_cuts_is_said(tmp_path, caplog):
    for number in range(2):
        Image.fromarray(np.zeros((40, 96, 3), np.uint8)).save(tmp_path / f"{number}.png")
    settings = TrainSettings(data_path=f"synth:{tmp_path}", if_padding=True, image_size=64)
    for crop_size, said in ((32, False), (None, True)):
        read_training_set(replace(settings, crop_size=crop_size), settled(settings), None, check=True)
        assert ("cuts images of up to 96 pixels" in caplog.text) == said


@pytest.mark.parametrize(
    ("stored", "given", "expected"), [(True, None, True), (True, False, False), (False, True, True)]
)
def test_padding_is_the_checkpoints_unless_told(stored, given, expected):
    settings = TrainSettings(if_padding=given)
    assert settled(settings, {"if_padding": stored}).if_padding == expected


def test_noise_is_keyed_by_the_picture_that_is_decoded(tmp_path, swapped):
    pictures = swapped(tmp_path / "photo.png")
    listed = ImageList("list", [str(tmp_path / "photo.png")], [NEGATIVE])
    sample = make_test_set(listed, InputSettings(64), DIFFIML)[0]
    picture = pictures[sample["noise_key"]]
    assert (sample["image"] == picture[0, 0, 0]).all() and sample["image"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("images", "batch", "accumulation", "processes"),
    [
        (11, 2, 2, 1),
        (11, 2, 1, 2),
        (11, 1, 2, 3),
        (8, 4, 1, 2),
        (1, 4, 2, 4),
        (100, 3, 4, 2),
        (5, 8, 1, 1),
    ],
)
def test_plan_takes_each_image_once_and_weighs_them_alike(images, batch, accumulation, processes):
    plans = [plan_epoch(images, (0, 0), batch, accumulation, rank, processes) for rank in range(processes)]
    assert len({len(plan) for plan in plans}) == 1, "processes must keep step"
    assert len({tuple(micro.last for micro in plan) for plan in plans}) == 1
    taken = [index for plan in plans for micro in plan for index in micro.indices[: micro.images]]
    assert sorted(taken) == list(range(images))
    assert all(1 <= len(micro.indices) <= batch for plan in plans for micro in plan)

    total, start = batch * accumulation * processes, 0
    for update in zip(*[split(plan) for plan in plans], strict=True):  # one update on each process
        micros = [micro for share in update for micro in share]
        size = sum(micro.images for micro in micros)
        assert size == min(total, images - start)
        # DDP averages over processes: then every image weighs 1 / size.
        assert all(micro.weight * size == pytest.approx(micro.images * processes) for micro in micros)
        start += size


@pytest.mark.parametrize("images", [12, 13, 17, 1])
def test_the_number_of_processes_changes_no_micro_batch(images):
    """Twelve images an update, in batches of two: the same ones under the same numbers, from which noise follows."""

    def numbered(processes):
        plans = [plan_epoch(images, (0, 0), 2, 6 // processes, rank, processes) for rank in range(processes)]
        return {micro.number: micro.indices for plan in plans for micro in plan if micro.images}

    assert numbered(1) == numbered(2) == numbered(3)
    assert [*numbered(1)] == list(range(len(numbered(1))))


def test_a_last_batch_of_one_image_shows_it_twice_where_batches_need_a_variance():
    *_, alone = plan_epoch(5, (0, 0), 2, 1, least=2)
    assert len(alone.indices) == 2 and len(set(alone.indices)) == 1 and alone.images == 1 and alone.weight == 1


def split(plan):
    updates = [[]]
    for micro in plan:
        updates[-1].append(micro)
        if micro.last:
            updates.append([])
    assert not updates.pop()
    return updates


def test_plan_is_shuffled_anew_each_epoch():
    order = [plan_epoch(50, key, 1, 1) for key in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert order[0] == order[1]
    assert order[0] != order[2] and order[0] != order[3]


def test_parts_take_turns_with_batch_sizes_of_their_own():
    plans = [plan_turns([(8, 4), (3, 1)], (0, 0), 1, rank, 2) for rank in range(2)]
    turns = zip(*plans, strict=True)
    updates = [sorted(index for micro in both for index in micro.indices[: micro.images]) for both in turns]
    assert [len(update) for update in updates] == [8, 2, 1]
    assert updates[0] == list(range(8)) and sorted(updates[1] + updates[2]) == [8, 9, 10]
    numbers = [micro.number for plan in plans for micro in plan]
    assert len(set(numbers)) == len(numbers)
    assert plan_turns([(8, 4)], (0, 0), 2) == plan_epoch(8, (0, 0), 4, 2)


def test_an_empty_photograph_folder_is_named(tmp_path):
    with pytest.raises(DiffIMLError, match=str(tmp_path)):
        read_training_set(TrainSettings(data_path=f"synth:{tmp_path}"), InputSettings(64), None, check=True)


def test_photographs_are_one_of_the_sets_of_a_balanced_list(tiny_dataset, tmp_path):
    photographs = tmp_path / "photos"
    photographs.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photographs / f"{number}.png")
    listing = tmp_path / "sets.json"
    listing.write_text(json.dumps([["ManiDataset", str(tiny_dataset)], ["SyntheticTampering", str(photographs)]]))
    settings = TrainSettings(data_path=str(listing), synth_kinds="removal", crop_size=32, augmentation="turns")
    inputs = InputSettings(64, if_padding=True)
    dataset = read_training_set(settings, inputs, None, check=True)
    assert len(dataset) == 2 * 1840
    name = dataset[1840]["name"]  # each call draws anew
    assert "removal" in name or "authentic" in name
    assert dataset[0]["image"].shape == dataset[1840]["image"].shape == (3, 32, 32)
    authentic = read_training_set(replace(settings, synth_authentic=1.0), inputs, None, check=True)
    assert not any(authentic[1840 + number]["mask"].any() for number in range(8))


def test_windows_of_resized_images_are_refused(tiny_dataset):
    with pytest.raises(DiffIMLError, match="--if_padding"):
        read_training_set(TrainSettings(data_path=str(tiny_dataset), crop_size=32), InputSettings(64), None, check=True)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "P"])
def test_samples_are_the_frameworks_to_the_last_bit_and_type(tmp_path, mode, padding):
    """Of masks in every mode, a coloured one too, whose channels' mean decides."""
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (50, 90, 3), np.uint8)).save(tmp_path / "image.jpg")
    mask = Image.fromarray(generator.integers(0, 256, (50, 90, 3), np.uint8)).convert(mode)
    mask.save(tmp_path / "mask.png")
    pairs = [[str(tmp_path / "image.jpg"), str(tmp_path / "mask.png")], [str(tmp_path / "image.jpg"), NEGATIVE]]
    (tmp_path / "list.json").write_text(json.dumps(pairs))
    settings = InputSettings(96, if_padding=padding, edge_mask_width=7)
    arguments = framework_arguments(settings, train_transform("turns"), diffiml_post_func)
    theirs = JsonDataset(str(tmp_path / "list.json"), **arguments)
    listed, inputs, turns = read_list(tmp_path / "list.json"), Inputs(settings), train_transform("turns")
    ours = PairsDataset(listed, inputs, turns, diffiml_post_func)
    bare = PairsDataset(listed, inputs, turns, None, normalised=False)
    for index in (0, 1, 0):
        expected, found, packed = (seeded(each, index) for each in (theirs, ours, bare))
        assert expected.keys() == found.keys() == packed.keys() | {"edge_map"}
        assert packed["image"].dtype == torch.uint8
        assert torch.equal(unpack(packed, CPU)["image"], expected["image"])
        for key, value in expected.items():
            assert type(found[key]) is type(value), key
            if isinstance(value, torch.Tensor):
                assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
            else:
                assert found[key] == value, key


def seeded(dataset, index):
    random.seed(index)
    return dataset[index]


def test_a_mask_of_another_size_is_named(tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.zeros((6, 4), np.uint8)).save(tmp_path / "mask.png")
    listed = ImageList("x", (str(tmp_path / "image.png"),), (str(tmp_path / "mask.png"),))
    with pytest.raises(DiffIMLError, match="mask.png is not of the size of .*image.png"):
        PairsDataset(listed, Inputs(InputSettings(32)), test_transform())[0]


def test_only_a_foreign_post_function_makes_workers_normalise(tiny_dataset):
    listed = read_list(tiny_dataset)
    for post, dtype in ((None, torch.uint8), (diffiml_post_func, torch.uint8), (lambda sample: None, torch.float32)):
        card = replace(DIFFIML, post_function=post)
        assert make_test_set(listed, InputSettings(64), card)[0]["image"].dtype == dtype


def test_workers_go_on_when_a_signal_asks_all_processes_to_end(augmented):
    loader = make_loader(SeededDataset(augmented, seed=1), 0, [(0,), (1,), (2,)] * 3, 1, CPU)
    batches = iter(loader)
    found = [next(batches)]
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(batches._workers[0].pid, number)
    assert len([*found, *batches]) == 9


class Crashing(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGBUS)  # as writing to a full /dev/shm does


@pytest.mark.filterwarnings("ignore")
def test_full_shared_memory_is_said_with_its_mend():
    with pytest.raises(RuntimeError) as error:
        list(make_loader(SeededDataset(Crashing(), seed=1), 0, [(0,)], 1, CPU))
    assert "--shm-size 2g or --ipc host, or pass --num_workers 0" in _mend(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_epochs_keeps_its_workers_and_gives_what_new_ones_give(augmented, workers):
    loader = EpochLoader(SeededDataset(augmented, seed=1), workers, CPU)
    batches, started = [(0, 1), (2,)], []
    for epoch in range(2):
        found = list(loader.epoch(epoch, batches))
        started.append([worker.pid for worker in loader._loader._iterator._workers] if workers else [])
        expected = make_loader(SeededDataset(augmented, seed=1), epoch, batches, 0, CPU)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one["image"], other["image"]) and torch.equal(one["index"], other["index"])
    assert started[0] == started[1] and len(started[0]) == workers
    (fewer,) = loader.epoch(2, [(1,)])  # an epoch may have fewer batches
    assert fewer["index"].tolist() == [1]


def test_the_files_bytes_key_the_noise_whatever_is_done_to_its_pixels(tiny_dataset):
    copy = shutil.copy(tiny_dataset / "Tp" / "0.png", tiny_dataset / "copy.png")
    listed = ImageList("", (str(tiny_dataset / "Tp" / "0.png"), copy), (NEGATIVE,) * 2)
    for transform in (None, perturbed("blur", 3)):
        samples = make_test_set(listed, InputSettings(64), DIFFIML, transform)
        assert {sample["noise_key"] for sample in samples} == {sha256(Path(copy).read_bytes()).hexdigest()}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_samples_noise_is_the_models(tiny_dataset, monkeypatch, workers):
    model = DiffIMLModel(**SMALL).eval()
    test_set = make_test_set(read_list(tiny_dataset), InputSettings(64), DIFFIML, model=model)
    monkeypatch.setattr(DiffIML, "draw_noise", None)  # not drawn again beside the model, on which the device waits
    for batch in load(test_set, workers):
        batch = unpack(batch, CPU)
        keyed = draw_noise(model.diffiml.config, batch["noise_key"], (64, 64))
        assert torch.equal(batch["noise"], keyed)
        with torch.no_grad():
            assert model(**batch)["pred_mask"].shape == batch["mask"].shape


def test_no_noise_is_drawn_for_an_image_that_is_cut_into_tiles(tiny_dataset, monkeypatch):
    listed, padded = read_list(tiny_dataset), InputSettings(64, if_padding=True, padding_mode="reflect")
    for most, drawn in ((64 * 96, True), (64 * 96 - 1, False)):
        monkeypatch.setattr("diffiml_plugin.models.tiles.WHOLE", most)
        assert ("noise" in make_test_set(listed, padded, DIFFIML, model=DiffIMLModel(**SMALL))[0]) == drawn

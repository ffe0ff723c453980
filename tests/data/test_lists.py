import json
from pathlib import Path

import pytest

from diffiml_plugin.data.lists import (
    NEGATIVE,
    ImageList,
    read_balanced,
    read_list,
    read_test_sets,
    repeated,
    require_other_images,
)
from diffiml_plugin.errors import DiffIMLError


@pytest.fixture
def folder(tmp_path):
    """Makes Tp/ and Gt/ with empty files of the given names."""

    def make(images, masks, name="set"):
        for part, files in (("Tp", images), ("Gt", masks)):
            (tmp_path / name / part).mkdir(parents=True)
            for file in files:
                (tmp_path / name / part / file).touch()
        return tmp_path / name

    return make


def names(listed):
    return [tuple(path.rsplit("/", 1)[1] for path in pair) for pair in zip(listed.images, listed.masks, strict=True)]


def test_equal_stems_pair_whatever_their_order(folder):
    listed = read_list(folder(["a.jpg", "a-b.jpg", ".DS_Store"], ["a.png", "a-b.png"]))
    assert sorted(names(listed)) == [("a-b.jpg", "a-b.png"), ("a.jpg", "a.png")]


def test_other_stems_pair_in_order(folder):
    assert names(read_list(folder(["1t.tif", "2t.tif"], ["1forged.tif", "2forged.tif"]))) == [
        ("1t.tif", "1forged.tif"),
        ("2t.tif", "2forged.tif"),
    ]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["tamp_10_splice.png", "tamp_2_copy.png"], ["gt_002.png", "gt_010.png"]),
        (["1.png", "2.png", "3.png"], ["12_gt.png", "23_gt.png", "31_gt.png"]),
    ],
)
def test_names_that_do_not_tell_which_mask_is_whose_are_told(folder, caplog, images, masks):
    read_list(folder(images, masks))
    assert f"paired in order, {images[0]} with {masks[0]} and so on" in caplog.text


def test_names_that_tell_it_are_not(folder, caplog):
    read_list(folder(["1t.tif", "2t.tif"], ["1forged.tif", "2forged.tif"]))
    assert not caplog.text


@pytest.mark.parametrize(
    ("images", "masks", "named"),
    [
        (["a.jpg", "b.jpg", "c.jpg"], ["a.png", "b.png"], "c.jpg has no mask"),
        (["a.jpg", "b.jpg"], ["a.png", "b.png", "c.png"], "c.png has no image"),
        (["a.jpg", "b.jpg", "c.jpg"], ["a_gt.png", "c_gt.png", "d_gt.png"], "b.jpg has no mask of its name"),
        (["a.jpg", "b.jpg", "c.jpg"], ["a_gt.png", "b_gt.png", "d_map.png"], "c.jpg would be paired with d_map.png"),
        (["1t.tif", "2t.tif"], ["1forged.tif"], "2 images but 1 masks"),
        (["a.jpg", "a.png"], ["a.png"], "a name twice"),
        ([], ["a.png"], "Tp holds no files"),
    ],
)
def test_what_does_not_pair_is_named(folder, images, masks, named):
    with pytest.raises(DiffIMLError, match=named):
        read_list(folder(images, masks))


@pytest.mark.parametrize(
    ("image", "mask"),
    [("{}.jpg", "{}_gt.png"), ("img{}.jpg", "mask_{}.png"), ("img_{:04}.jpg", "mask_{}.png"), ("{:03}.jpg", "{}.png")],
)
def test_numbers_pair_though_they_sort_differently(folder, image, mask):
    numbers = range(1, 101)
    listed = read_list(folder(map(image.format, numbers), map(mask.format, numbers)))
    assert sorted(names(listed)) == sorted((image.format(n), mask.format(n)) for n in numbers)


def test_numbers_that_zeros_alone_tell_apart(folder):
    assert names(read_list(folder(["1.jpg", "01.jpg", "2.jpg"], ["1_gt.png", "01_gt.png", "2_gt.png"]))) == [
        ("01.jpg", "01_gt.png"),
        ("1.jpg", "1_gt.png"),
        ("2.jpg", "2_gt.png"),
    ]


def test_a_missing_number_is_named(folder):
    masks = [f"mask_{number}.png" for number in (*range(1, 12), 13)]
    with pytest.raises(DiffIMLError, match="img_012.jpg has no mask of its name"):
        read_list(folder([f"img_{number:03}.jpg" for number in range(1, 13)], masks))


def test_authentic_images_beside_a_folder_are_told_of(folder, caplog):
    caplog.set_level("INFO")
    root = folder(["a.jpg"], ["a.png"])
    read_list(root)
    assert not caplog.messages
    (root / "Au").mkdir()
    read_list(root)
    assert "Au is not read" in caplog.text


@pytest.mark.parametrize("part", ["Tp", "Gt"])
def test_folders_inside_are_left_out_and_counted(folder, caplog, part):
    root = folder(["a.jpg"], ["a.png"])
    (root / part / ".hidden").mkdir()
    assert names(read_list(root)) == [("a.jpg", "a.png")] and not caplog.text
    for place in ("val/b.jpg", "train/c.jpg", "train/further/d.jpg"):
        (root / part / place).parent.mkdir(parents=True, exist_ok=True)
        (root / part / place).touch()
    assert names(read_list(root)) == [("a.jpg", "a.png")]
    assert f"{root / part} holds 2 folders, such as train/, whose 3 files are left out" in caplog.text


def test_a_relative_variable_is_relative_to_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "data")
    (tmp_path / "list.json").write_text(json.dumps([["${DATA_ROOT}/z.jpg", NEGATIVE]]))
    monkeypatch.chdir("/")
    assert read_list(tmp_path / "list.json").images == ("/data/z.jpg",)


def test_a_file_whose_name_holds_a_dollar_is_that_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XQ", "b")
    for name in ("a$XQ.png", "ab.png", "$XQ"):
        (tmp_path / name).touch()
    (tmp_path / "list.json").write_text(
        json.dumps([[name, NEGATIVE] for name in ("a$XQ.png", "ab.png", "$XQ", "c$XQ")])
    )
    assert [Path(image).name for image in read_list(tmp_path / "list.json").images] == [
        "a$XQ.png",
        "ab.png",
        "$XQ",
        "cb",
    ]


def test_paths_in_a_list_are_relative_to_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/data")
    (tmp_path / "list.json").write_text(json.dumps([["x.jpg", "y.png"], ["${DATA_ROOT}/z.jpg", NEGATIVE]]))
    monkeypatch.chdir("/")
    listed = read_list(tmp_path / "list.json")
    assert listed.images == (str(tmp_path / "x.jpg"), "/data/z.jpg")
    assert listed.masks == (str(tmp_path / "y.png"), NEGATIVE)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lists_written_on_windows(tmp_path, encoding):
    (tmp_path / "Tp").mkdir()
    (tmp_path / "Tp" / "with\\in.png").touch()
    records = [["Tp\\a.png", "..\\Gt\\a.png"], ["Tp/b.png", "negative"], ["Tp/with\\in.png", "NEGATIVE"]]
    (tmp_path / "list.json").write_bytes(json.dumps(records).encode(encoding))
    listed = read_list(tmp_path / "list.json")
    assert listed.images == tuple(f"{tmp_path}/Tp/{name}" for name in ("a.png", "b.png", "with\\in.png"))
    assert listed.masks == (f"{tmp_path}/../Gt/a.png", NEGATIVE, NEGATIVE)


@pytest.mark.parametrize("entry", ["C:\\data\\a.png", "d:/a.png", "a\0.png", "\ud800.png"])
def test_paths_of_another_machine_are_refused_by_name(tmp_path, entry):
    (tmp_path / "list.json").write_text(json.dumps([[entry, NEGATIVE]]))
    with pytest.raises(DiffIMLError, match="list.json: .* is no path of this machine; write it relative to the list"):
        read_list(tmp_path / "list.json")


def test_a_set_named_twice_is_refused(tmp_path):
    (tmp_path / "sets.json").write_text('{"A": "one.json", "A": "two.json"}')
    with pytest.raises(DiffIMLError, match="the key 'A' stands there twice"):
        read_test_sets(tmp_path / "sets.json")


def test_a_json_of_names_gives_several_sets(folder, tmp_path, monkeypatch):
    folder(["a.jpg"], ["a.png"], "one")
    (tmp_path / "two.json").write_text(json.dumps([["x.jpg", NEGATIVE]]))
    (tmp_path / "sets.json").write_text(json.dumps({"One": "one", "Two": "two.json"}))
    sets = read_test_sets(tmp_path / "sets.json")
    assert {name: len(listed.images) for name, listed in sets.items()} == {"One": 1, "Two": 1}
    assert list(read_test_sets(tmp_path / "one")) == ["one"]
    assert list(read_test_sets(tmp_path / "two.json")) == ["two"]
    (tmp_path / "two.json").rename(tmp_path / "one" / "list.json")
    monkeypatch.chdir(tmp_path / "one")
    assert list(read_test_sets("list.json")) == ["one"]


def test_sets_that_are_not_there_are_left_out_and_named(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    folder(["a.jpg"], ["a.png"], "one")
    sets = tmp_path / "sets.json"
    sets.write_text(json.dumps({"One": "one", "Gone": "${DATA_ROOT}/gone.json"}))
    assert list(read_test_sets(sets)) == ["One"]
    assert f"not there: Gone ({tmp_path / 'gone.json'})" in caplog.text
    sets.write_text(json.dumps({"One": "one", "Gone": "gone.json"}))
    with pytest.raises(DiffIMLError, match="Gone of .*gone.json, does not exist; mend the path"):
        read_test_sets(sets)
    sets.write_text(json.dumps({"Gone": "gone.json"}))
    with pytest.raises(DiffIMLError, match="no dataset of .*sets.json is there: Gone"):
        read_test_sets(sets)


def test_a_balanced_json(folder, tmp_path):
    folder(["a.jpg"], ["a.png"], "one")
    (tmp_path / "balanced.json").write_text(json.dumps([["ManiDataset", "one"], ["ManiDataset", "one"]]))
    assert len(read_balanced(tmp_path / "balanced.json")) == 2
    assert read_balanced(tmp_path / "one") is None


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '[["a", "b", "c", "d"]]', '[["a.jpg"]]', '[["a.jpg", 3]]', '"text"']
)
def test_what_is_no_list_is_named(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(DiffIMLError, match="bad.json"):
        read_test_sets(tmp_path / "bad.json")


@pytest.mark.parametrize("entry", [["", NEGATIVE], ["a.png", ""]])
def test_an_entry_without_a_name_is_refused(tmp_path, entry):
    (tmp_path / "list.json").write_text(json.dumps([entry]))
    with pytest.raises(DiffIMLError, match="list.json: entry 0 is "):
        read_list(tmp_path / "list.json")


def test_a_list_of_training_sets_is_told_from_one_of_images(tmp_path):
    (tmp_path / "balanced.json").write_text(json.dumps([["ManiDataset", "one"]]))
    with pytest.raises(DiffIMLError, match="balanced.json lists training sets; expected images"):
        read_test_sets(tmp_path / "balanced.json")


@pytest.mark.parametrize("name", ["", "mean"])  # which head rows of every table
def test_names_that_no_set_can_have(folder, tmp_path, name):
    (tmp_path / "sets.json").write_text(json.dumps({name: "here"}))
    with pytest.raises(DiffIMLError, match=f"sets.json: '{name}' cannot be a dataset's name; choose another"):
        read_test_sets(tmp_path / "sets.json")
    (tmp_path / "mean.json").write_text(json.dumps([["a.png", NEGATIVE]]))
    with pytest.raises(DiffIMLError, match="'mean' cannot be"):
        read_test_sets(tmp_path / "mean.json")


def test_missing_path_is_named(tmp_path):
    with pytest.raises(DiffIMLError, match="nowhere does not exist"):
        read_list(tmp_path / "nowhere")
    with pytest.raises(DiffIMLError, match="has no Tp/.*`benco datasets prepare NAME --root DIR`"):
        read_list(tmp_path)


def test_a_list_of_forensichub_says_no_forgery_without_a_mask(tmp_path, caplog):
    pairs = [{"path": "a.png", "mask": "m.png", "label": 1}, {"path": "b.png", "mask": "negative", "label": 0}]
    pairs.append({"path": "c.png", "mask": "n.png", "label": None})  # which its mask says

    def read(*more):
        (tmp_path / "list.json").write_text(json.dumps([*pairs, *more]))
        return read_list(tmp_path / "list.json")

    assert read().masks == (str(tmp_path / "m.png"), NEGATIVE, str(tmp_path / "n.png")) and not caplog.text
    read({"path": "d.png", "mask": "black.png", "label": 0})
    assert "1 entries, such as 'd.png', say label 0 and have a mask, which counts" in caplog.text
    for odd, told in (
        ({"mask": "Negative", "label": 1}, "entry 'd.png' says label 1 and has no mask, so it would count"),
        ({"mask": "m.png", "label": "fake"}, "entry 'd.png' says label 'fake'; expected 0 or 1"),
        ({"mask": None, "label": 0}, "entry 3 is .*d.png"),
    ):
        with pytest.raises(DiffIMLError, match=told):
            read({"path": "d.png", **odd})


def test_a_third_word_is_the_kind_of_manipulation(tmp_path):
    pairs = [["a.png", "m.png", "splice"], ["b.png", NEGATIVE], ["c.png", "n.png"]]
    (tmp_path / "list.json").write_text(json.dumps(pairs))
    assert read_list(tmp_path / "list.json").kinds == ("splice", "", "")
    (tmp_path / "list.json").write_text(json.dumps(pairs[1:]))
    assert read_list(tmp_path / "list.json").kinds == ()


def test_a_file_is_one_by_whatever_link_and_a_copy_is_another(tmp_path):
    image, mask = tmp_path / "a.png", tmp_path / "mask.png"
    for file in (image, mask, tmp_path / "copy.png"):
        file.write_bytes(b"equal")
    (tmp_path / "hard.png").hardlink_to(image)
    (tmp_path / "soft.png").symlink_to("hard.png")
    (tmp_path / "hard_mask.png").hardlink_to(mask)
    (tmp_path / "folder").symlink_to(".")
    paths = ("a.png", "copy.png", "hard.png", "soft.png", "folder/a.png", "gone.png", "gone.png")
    pairs = [(str(tmp_path / name), str(mask)) for name in paths]
    pairs[2] = str(tmp_path / "hard.png"), str(tmp_path / "hard_mask.png")
    told = {2: f"{tmp_path}/hard.png (the same file as {image})", 3: f"{tmp_path}/soft.png (the same file as {image})"}
    told |= {4: f"{tmp_path}/folder/a.png (the same file as {image})", 6: f"{tmp_path}/gone.png"}
    assert repeated(pairs) == told
    with pytest.raises(DiffIMLError, match=r"hard.png \(the same file as .*/a.png\) is listed with .* with Negative;"):
        repeated([*pairs[:2], (pairs[2][0], NEGATIVE)])


def test_images_in_two_sets_are_told(tmp_path, caplog):
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file in files:
        file.touch()
    masks = dict(zip(files, ["m0.png", "m1.png", NEGATIVE, "m3.png"], strict=True))  # one authentic serves two
    sets = {
        name: ImageList(name, tuple(map(str, of)), tuple(masks[file] for file in of))
        for name, of in {"whole": files[:3], "half": files[:2], "other": files[2:]}.items()
    }
    require_other_images(sets)
    assert caplog.messages == [
        "2 tampered images of whole are in half too, which a mean counts twice; is one of the two paths another set's?"
    ]
    with pytest.raises(DiffIMLError, match="remove them from one, or leave out --strict"):
        require_other_images(sets, strict=True)

"""The table of bad inputs: what is wrong, a command, its exit status, and what it says (`...` stands for anything).

test_bad_inputs.py runs it, and `python tests/bad_inputs.py` makes docs/bad_inputs.md of it. `make_world` makes the
files that the commands name.
"""

# ruff: noqa: E501  (a row is a row)
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from diffiml_plugin.cli.verbs import VERBS
from diffiml_plugin.ledger import LEDGER
from diffiml_plugin.table import as_code

PAGE = Path(__file__).parents[1] / "docs" / "bad_inputs.md"
READ, FAULTS, REFUSED = 0, 1, 2  # exit statuses
_HOW = " --device cpu --num_workers 0"  # left out of the page
TEST = "test --device cpu --num_workers 0 --checkpoint_path model.safetensors --test_data_path"
WEIGHTS = "test --device cpu --num_workers 0 --test_data_path set/list.json --checkpoint_path"
SET = f"{TEST} set/list.json"
PREDICT = "predict --device cpu --checkpoint_path model.safetensors"
SWEEP = "sweep --device cpu --num_workers 0 --checkpoint_path model.safetensors --test_data_path set/list.json"
CALIBRATE = "calibrate --device cpu --checkpoint_path model.safetensors --test_data_path set/list.json"
TRAIN = "train --device cpu --num_workers 0 --model TinyIML --epochs 1 --image_size 64 --data_path"
_LEAD = """# What bad inputs do

{count} commands with something wrong, their exit status, and what they say; `...` stands for anything. Status 0: read
rightly, with a warning where one is due. 1: done, but with faults found. 2: refused, and nothing was written over.
A test runs every row. In none is there a traceback, and no file that was there is another afterwards.

The page is made from `tests/bad_inputs.py`, where the files that the commands name are made too."""


@dataclass(frozen=True)
class Case:
    """`wrong` in words; `words` of the command, which exits with `status` and says each part of `said`, in order."""

    wrong: str
    words: str
    status: int
    said: str


def _listed(*records: object) -> str:
    return json.dumps(list(records))


def _weights(header: object, dtype: str = "F32") -> bytes:
    """A safetensors file of one tensor, whose header says `header` of itself."""
    said = header if isinstance(header, str) else json.dumps(header)
    layout = {"__metadata__": {"diffiml": said}, "x": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(layout).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


def _png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its pixels do not have."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


class _Code:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


def make_world(folder: Path) -> None:
    """Files, good and bad; `model.safetensors` of TinyIML is to be added."""
    random = np.random.default_rng(0)

    def image(name: str, size: tuple[int, int] = (48, 32)) -> None:
        save(name, random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))

    def save(name: str, pixels: np.ndarray) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)

    def write(name: str, content: str | bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    # A good set, and others with one fault each.
    mask = np.zeros((32, 48), np.uint8)
    mask[4:20, 8:32] = 255
    for number in range(3):
        image(f"set/Tp/{number}.png")
        save(f"set/Gt/{number}.png", np.roll(mask, number, 0))
    image("set/clean.png")
    good = [[f"Tp/{number}.png", f"Gt/{number}.png"] for number in range(3)]
    write("set/list.json", _listed(*good, ["clean.png", "Negative"]))
    image("set/Tp of another/Tp/a.png")
    image("unpaired/Tp/a.png")
    image("unpaired/Tp/b.png")
    save("unpaired/Gt/a.png", mask)
    image("no_masks/Tp/a.png")
    (folder / "no_images" / "Tp").mkdir(parents=True)
    save("no_images/Gt/a.png", mask)
    image("nested/Tp/a.png")
    image("nested/Tp/more/b.png")
    save("nested/Gt/a.png", mask)
    (folder / "nothing").mkdir()
    write("lists/no_json.json", "[[")
    write("lists/empty.json", "[]")
    write("lists/number.json", "3")
    write("lists/one_word.json", _listed(["a.png"]))
    write("lists/numbers.json", _listed([1, 2]))
    write("lists/null.json", _listed(["a.png", None]))
    write("lists/nan.json", '[["a.png", NaN]]')
    write("lists/latin.json", '[["ä.png", "Negative"]]'.encode("latin-1"))
    write("lists/deep.json", "[" * 100_000)
    write("lists/drive.json", _listed(["C:\\photos\\a.png", "Negative"]))
    write("lists/half_a_character.json", '[["\\ud800.png", "Negative"]]')
    write("lists/twice_named.json", json.dumps({"one": "../set/list.json", "two": "../set/./list.json"}))
    write("lists/no_mask.json", _listed({"path": "a.png", "mask": "Negative", "label": 1}))
    write("lists/no_name.json", _listed(["a.png", ""]))
    write("lists/training_sets.json", _listed(["ManiDataset", "../set"]))
    write("lists/digits.json", f"[{'9' * 5000}]")
    write("lists/set_mean.json", '{"mean": "../set"}')
    write("lists/nul.json", _listed(["a\0.png", "Negative"]))
    write("lists/windows.json", b"\xef\xbb\xbf" + _listed(["..\\set\\Tp\\0.png", "..\\set\\Gt\\0.png"]).encode())
    write("lists/lower_case.json", _listed(["../set/clean.png", "negative"], ["../set/Tp/0.png", "../set/Gt/0.png"]))
    write("lists/twice.json", _listed(*([f"../set/{i}", f"../set/{m}"] for i, m in [*good, good[0]])))
    write("lists/contradiction.json", _listed(["../set/Tp/0.png", "../set/Gt/0.png"], ["../set/Tp/0.png", "Negative"]))
    write("lists/gone.json", _listed(["../set/gone.png", "Negative"]))
    write("lists/names.json", json.dumps([["../namesakes/gone\udcff.png", "Negative"]]))
    write("lists/sets_of_numbers.json", '{"A": 3}')
    write("lists/no_sets.json", "{}")
    write("lists/set_gone.json", '{"A": "nowhere.json"}')
    write("lists/set_of_variable.json", '{"A": "${NOWHERE_AT_ALL}/gone.json"}')
    write("lists/set_twice.json", '{"A": "../set/list.json", "A": "../set"}')

    # Images.
    bad = folder / "bad"
    write("bad/empty.png", b"")
    write("bad/text.jpg", b"no image at all")
    write("bad/page.jpg", b"<!DOCTYPE html><html></html>")
    write("bad/avif.jpg", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + bytes(60))
    write("bad/dds.jpg", b"DDS " + struct.pack("<I", 124) + b"\xff" * 120)
    write("bad/eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    write("bad/bomb.png", _png(60_000, 60_000))
    write("bad/lie.png", _png(64, 64))
    save("bad/wide.png", np.zeros((1, 66_000, 3), np.uint8))
    save("bad/real.tif", np.zeros((32, 48), np.float32))
    save("bad/twelve_bits.png", np.full((32, 48), 4000, np.uint16))
    Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(bad / "whole.jpg")
    write("bad/cut.jpg", (bad / "whole.jpg").read_bytes()[:1500])
    (bad / "whole.jpg").unlink()
    Image.new("L", (64, 64)).save(bad / "whole.jpg", progressive=True)
    scans = (bad / "whole.jpg").read_bytes()
    scan = scans[scans.rindex(b"\xff\xda") : -2]
    write("bad/scans.jpg", scans[:-2] + 10_000 * scan + scans[-2:])
    (bad / "whole.jpg").unlink()
    cv2.imwrite(str(bad / "deep.jp2"), np.full((32, 48, 3), 65535, np.uint16))
    cv2.imwrite(str(bad / "colours.png"), random.integers(0, 4096, (32, 48, 3), dtype=np.uint16))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(random.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(bad / "turned.tif", exif=turned)
    write("lists/turned_pair.json", _listed(["../bad/turned.tif", "../set/Gt/0.png"]))
    os.mkfifo(bad / "pipe.png")
    (bad / "folder.png").mkdir()
    (bad / "loop.png").symlink_to("loop.png")
    for name in sorted(os.listdir(bad)):
        write(f"lists/{name.partition('.')[0]}_image.json", _listed([f"../bad/{name}", "Negative"]))
    write(
        "lists/cut_among_others.json", _listed(["../bad/cut.jpg", "Negative"], ["../set/Tp/0.png", "../set/Gt/0.png"])
    )
    masks = {
        "small": mask[:16],
        "turned": mask.T,
        "dark": mask // 255,
        "grey": np.tile(np.arange(0, 240, 5, dtype=np.uint8), (32, 1)),
        "alpha": np.dstack([mask * 0, mask]),
        "real": mask.astype(np.float32),
        "black": mask * 0,
        "inverted": 255 - mask,
    }
    for name, pixels in masks.items():
        file = f"masks/{name}.{'tif' if name == 'real' else 'png'}"
        save(file, pixels)
        write(
            f"lists/{name}_mask.json",
            _listed(["../set/Tp/0.png", f"../{file}"], ["../set/Tp/1.png", "../set/Gt/1.png"]),
        )
    write("lists/empty_mask.json", _listed(["../set/Tp/0.png", "../bad/empty.png"]))

    # Photographs.
    for name in ("a", "b", "c"):
        image(f"photos/{name}.png", (64, 48))
    image("one_photo/a.png", (64, 48))
    for name in ("a", "b"):
        image(f"mapped/photos/{name}.png", (64, 48))
    save("mapped/regions/a.png", np.zeros((48, 32), np.uint8))
    for name in ("a.bmp", "a.png"):
        image(f"shared/photos/{name}", (64, 48))
    save("shared/regions/a.png", np.zeros((64, 48), np.uint8))
    for name in ("a", "b"):
        image(f"mixed/{name}.png", (64, 48))
    image("mixed/tiny.png", (8, 8))
    write("mixed/broken.jpg", b"")
    for name in ("a.jpg", "a.jpg.tif", "a.png"):
        image(f"namesakes/{name}")
    (folder / "namesakes" / os.fsdecode(b"b\xff.png")).write_bytes((folder / "set" / "clean.png").read_bytes())
    (folder / "namesakes" / f"{'n' * 245}.png").write_bytes((folder / "set" / "clean.png").read_bytes())

    # Downloads.
    image("circle/Tp/a.png")
    save("circle/Gt/a.png", mask)
    for name in ("x", "y"):
        (folder / "circle" / name).symlink_to(".")
    write("dots/list.json", _listed(["../set/Tp/0.png", "../masks/dark.png"]))
    image("half/Tp/a.png")
    save("half/Gt/a.png", mask)
    image("half/Tp/b.png")
    write("half/Gt/b.png", b"")
    write("taken.json", "[]")
    image("nist/probe/a.jpg")
    write("nist/reference/manipulation/NC2016-manipulation-ref.csv", "no|such|columns\n1|2|3\n")

    # Weights.
    write("weights/empty.safetensors", b"")
    write("weights/pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    write("weights/page.pth", b"<!DOCTYPE html>")
    write("weights/code.pth", pickle.dumps(_Code(), 2))
    write("weights/list.pth", pickle.dumps([1, 2], 2))
    write("weights/others.safetensors", _weights({}).replace(b"diffiml", b"another"))
    write("weights/no_json.safetensors", _weights("{"))
    write("weights/a_list.safetensors", _weights([1]))
    write("weights/no_model.safetensors", _weights({"config": {}}))
    write("weights/other_model.safetensors", _weights({"model": "Nothing"}))
    write("weights/a_number.safetensors", _weights({"model": 3}))
    write("weights/path.safetensors", _weights({"model": "Trufor", "config": {"config_path": "conf.py"}}))
    write("weights/odd_size.safetensors", _weights({"model": "TinyIML", "input": {"image_size": -32}}))
    write("weights/noise.safetensors", _weights({"model": "DiffIML", "config": {"beta_end": 1.0}}))
    write("weights/depth.safetensors", _weights({"model": "SparseViT", "config": {"depth": [10**9, 1, 1, 1]}}))
    write("teacher/config.json", json.dumps({"_class_name": "AutoencoderKL", "layers_per_block": 10**9}))
    write("weights/members.safetensors", _weights({"model": "DiffIML", "config": {"ensemble_size": 100000}}))
    write("weights/threshold.safetensors", _weights({"model": "TinyIML", "threshold": 7}))
    write("weights/integers.safetensors", _weights({"model": "TinyIML", "config": {}}, "I32"))
    write("weights/another_model.safetensors", _weights({"model": "TinyIML", "config": {}}))
    write("conf.py", "open('executed', 'w')")

    # Configurations, results and a folder in which another program wrote.
    write("configs/no_yaml.yaml", "a: [")
    write("configs/a_list.yaml", "[1, 2]")
    write("configs/unknown.yaml", "chekpoint_path: x\n")
    write("configs/wrong_type.yaml", "image_size: large\n")
    write("configs/twice.yaml", "image_size: 64\nimage_size: 128\n")
    write("configs/code.yaml", "image_size: !!python/object/apply:os.system ['touch executed']\n")
    aliases = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 9))
    write("configs/aliases.yaml", f"x0: &x0 [1]\n{aliases}")
    write("configs/runs.yaml", "model: Trufor\nconfig_path: ${HERE}/../conf.py\n")
    write("configs/octal.yaml", "image_size: 0100\n")
    write("configs/minutes.yaml", "lr: 1:30.5\n")
    write("configs/no.yaml", "output_dir: no\n")
    write("configs/nul.yaml", 'output_dir: "a\\0b"\n')
    write("configs/surrogate.yaml", 'output_dir: "\\ud800"\n')
    write("configs/empty.yaml", "# nothing yet\n")
    write("configs/verb.yaml", "only: {trian: {epochs: 60}}\n")
    write("configs/binary.yaml", bytes(range(256)))
    write("configs/styles.yaml", "world: 3\n")
    scored = {"model": "TinyIML", "checkpoint": "older.safetensors", "weights": "0" * 64}
    for verb, name in (("test", "results"), ("robust", "robust"), ("sweep", "sweep")):
        write(f"scored/{verb}/{name}.json", json.dumps(scored))
        write(f"scored/{verb}/{LEDGER}", json.dumps({"run": f"{name}.json", "settings": {"weights": "0" * 64}}))
    write("scored/calibrate/calibration.json", json.dumps(scored))
    write(f"scored/calibrate/{LEDGER}", json.dumps({"run": "calibrate", "settings": {"weights": "0" * 64}}))
    tested = {**scored, "command": "", "configuration": "", "settings": {}, "datasets": {}, "mean": {}}
    write("tested/results.json", json.dumps(tested))
    write("tested/per_image.jsonl", json.dumps({"dataset": "mean"}))
    write("foreign/results.json", "{}")
    write("foreign/run/config.yaml", "mine: true\n")
    write("foreign/card.md", "mine")
    write("foreign/locked/.lock", "")
    write("foreign/report/report.html", "mine")
    write("foreign/study/study.md", "mine")
    write("foreign/demo/report.html", "mine")
    save("truths/a_mask.png", mask)
    write("foreign/codec/lightvae.safetensors", _weights({}))
    write("foreign/training/best.safetensors", _weights({"model": "TinyIML"}))
    write("tampered/list.json", "[]")
    write("file", "not a folder")
    write("statement.json", "{}")
    write("statements/a_list.json", "[]")
    write("statements/no_json.json", "{")
    write("reported/results.json", "[]")


CASES = (
    Case("a misspelt verb", "tset", REFUSED, "error: unknown verb 'tset'; did you mean 'test'?"),
    Case(
        "a misspelt flag",
        "test --chekpoint_path x",
        REFUSED,
        "error: unknown flag --chekpoint_path; did you mean '--checkpoint_path'?",
    ),
    Case(
        "a flag's value that is none of its kind",
        f"{SET} --image_size large",
        REFUSED,
        "error: argument --image_size: invalid int value: 'large'",
    ),
    Case("a value out of range", f"{SET} --image_size 0", REFUSED, "error: --image_size 0 must be a positive number"),
    Case(
        "a value out of range",
        f"{SET} --test_batch_size 0",
        REFUSED,
        "error: --test_batch_size 0 must be a positive number",
    ),
    Case("a value out of range", f"{SET} --num_workers -1", REFUSED, "error: --num_workers -1 must be 0 to 1024"),
    Case(
        "one of several words, misspelt",
        f"{SET} --device gpu",
        REFUSED,
        "error: argument --device: invalid choice: 'gpu' (choose from ...",
    ),
    Case(
        "a precision that the device lacks",
        f"{SET} --precision fp16",
        REFUSED,
        "error: --precision fp16 needs a GPU; pass fp32 or bf16 on the CPU",
    ),
    Case(
        "flags that exclude each other",
        f"{SET} --if_padding --if_resizing",
        REFUSED,
        "error: --if_padding and --if_resizing exclude each other; give one of them",
    ),
    Case(
        "a row that no table has",
        f"{SET} --experiment tabel2",
        REFUSED,
        "error: --experiment tabel2: no table that `benco test` fills; did you mean 'table2'?",
    ),
    Case(
        "a revision on the hub that leads out of its cache",
        f"{WEIGHTS} hub:org/name@../../mine",
        REFUSED,
        "error: hub: 'org/name@../../mine' is no ORGANISATION/NAME, or that with @ and a commit, tag or branch",
    ),
    Case(
        "a configuration that is not there",
        "test --config configs/gone.yaml",
        REFUSED,
        "error: no config file configs/gone.yaml (`benco configs` lists the package's own)",
    ),
    Case(
        "a configuration that is a folder",
        "test --config configs",
        REFUSED,
        "error: no config file configs (`benco configs` lists the package's own)",
    ),
    Case(
        "a configuration that is no YAML",
        "test --config configs/no_yaml.yaml",
        REFUSED,
        "configs/no_yaml.yaml is not YAML in line 1, column 5",
    ),
    Case(
        "a configuration of another form",
        "test --config configs/a_list.yaml",
        REFUSED,
        "configs/a_list.yaml: expected lines of `flag: value`, got [1, 2]",
    ),
    Case(
        "a configuration of bytes",
        "test --config configs/binary.yaml",
        REFUSED,
        "configs/binary.yaml is no UTF-8 text (byte 128); store it as UTF-8",
    ),
    Case(
        "a configuration with an unknown key",
        "test --config configs/unknown.yaml",
        REFUSED,
        "configs/unknown.yaml: unknown key 'chekpoint_path'; did you mean 'checkpoint_path'?",
    ),
    Case(
        "a configuration with a wrong value",
        "test --config configs/wrong_type.yaml",
        REFUSED,
        "configs/wrong_type.yaml: image_size: 'large' is no int",
    ),
    Case(
        "a configuration with a number that YAML takes for 64",
        "test --config configs/octal.yaml",
        REFUSED,
        "configs/octal.yaml is not YAML in line 1, column 13: '0100' is another number in YAML",
    ),
    Case(
        "a configuration with a rate that YAML takes for 90.5",
        f"{TRAIN} set --config configs/minutes.yaml",
        REFUSED,
        "configs/minutes.yaml is not YAML in line 1, column 5: '1:30.5' is another number in YAML",
    ),
    Case(
        "a configuration with a folder that YAML takes for false",
        "test --config configs/no.yaml",
        REFUSED,
        "configs/no.yaml: output_dir: False is no word to YAML; put it in quotes",
    ),
    Case(
        "a configuration with a null character in a folder's name",
        "test --config configs/nul.yaml",
        REFUSED,
        "configs/nul.yaml: output_dir: 'a\\x00b' has characters that no file's name has",
    ),
    Case(
        "a configuration with half a character in a folder's name",
        "test --config configs/surrogate.yaml",
        REFUSED,
        "configs/surrogate.yaml: output_dir: '\\ud800' has characters that no file's name has",
    ),
    Case(
        "a configuration that says nothing",
        "test --config configs/empty.yaml",
        REFUSED,
        "configs/empty.yaml: expected lines of `flag: value`, got nothing",
    ),
    Case(
        "a configuration with settings of a verb that there is not",
        "test --config configs/verb.yaml",
        REFUSED,
        "configs/verb.yaml: only: unknown verb 'trian'; did you mean 'train'?",
    ),
    Case(
        "a configuration that says a key twice",
        "test --config configs/twice.yaml",
        REFUSED,
        "configs/twice.yaml is not YAML in line 2, column 1: the key 'image_size' again",
    ),
    Case(
        "a configuration that would run a command",
        "test --config configs/code.yaml",
        REFUSED,
        "configs/code.yaml is not YAML in line 1, column 13: could not determine a constructor for the tag",
    ),
    Case(
        "a configuration that names a file to be run",
        "complexity --config configs/runs.yaml",
        REFUSED,
        "Trufor's --config_path .../conf.py is no .yaml or .yml file; of another, the framework would run what stands",
    ),
    Case(
        "a configuration whose aliases stand for 100 million values",
        "test --config configs/aliases.yaml",
        REFUSED,
        "configs/aliases.yaml has aliases that stand for more than 100000 values, or for themselves",
    ),
    Case(
        "weights that are not there",
        f"{WEIGHTS} gone.safetensors",
        REFUSED,
        "error: checkpoint gone.safetensors does not exist; pass a weights file, the output_dir of a training, small, or hub:ORGANISATION/NAME",
    ),
    Case(
        "a folder without weights",
        f"{WEIGHTS} nothing",
        REFUSED,
        "error: nothing has no best.safetensors ... it has no weights: name a file",
    ),
    Case(
        "weights: an empty file",
        f"{WEIGHTS} weights/empty.safetensors",
        REFUSED,
        "weights/empty.safetensors (0 bytes, sha256 ...) is truncated or no file of weights",
    ),
    Case(
        "weights: the pointer to a file of Git LFS",
        f"{WEIGHTS} weights/pointer.safetensors",
        REFUSED,
        "weights/pointer.safetensors (56 bytes, sha256 ...) is truncated or no file of weights",
    ),
    Case(
        "weights: a web page",
        f"{WEIGHTS} weights/page.pth",
        REFUSED,
        "weights/page.pth (15 bytes, sha256 ...) is a web page, not the file of weights itself; fetch that",
    ),
    Case(
        "weights: a pickle that would run a command",
        f"{WEIGHTS} weights/code.pth",
        REFUSED,
        "weights/code.pth ... nothing of it was run; ask for a file of the weights alone",
    ),
    Case(
        "weights: a pickle of other things",
        f"{WEIGHTS} weights/list.pth --model TinyIML",
        REFUSED,
        "weights/list.pth (12 bytes, sha256 ...) is truncated or no file of weights",
    ),
    Case(
        "weights of another program",
        f"{WEIGHTS} weights/others.safetensors",
        REFUSED,
        "weights/others.safetensors ... holds weights, but not of this package (its header lacks 'diffiml')",
    ),
    Case(
        "weights whose header is no JSON",
        f"{WEIGHTS} weights/no_json.safetensors",
        REFUSED,
        "the header of weights/no_json.safetensors is no JSON",
    ),
    Case(
        "weights whose header is a list",
        f"{WEIGHTS} weights/a_list.safetensors",
        REFUSED,
        "the header of weights/a_list.safetensors is [1]; expected fields by their names",
    ),
    Case(
        "weights whose header names no model",
        f"{WEIGHTS} weights/no_model.safetensors",
        REFUSED,
        "weights/no_model.safetensors does not say which model it holds; pass --model",
    ),
    Case(
        "weights of a model that is not registered",
        f"{WEIGHTS} weights/other_model.safetensors",
        REFUSED,
        "no model is called 'Nothing'; the registry has ...",
    ),
    Case(
        "weights of a model called 3",
        f"{WEIGHTS} weights/a_number.safetensors",
        REFUSED,
        "the header of weights/a_number.safetensors: model is 3; expected str",
    ),
    Case(
        "weights whose header names a file to be run",
        f"{WEIGHTS} weights/path.safetensors",
        REFUSED,
        "weights/path.safetensors was trained with --config_path 'conf.py'; a checkpoint's word opens no file",
    ),
    Case(
        "weights with an image size below 0",
        f"{WEIGHTS} weights/odd_size.safetensors",
        REFUSED,
        "error: --image_size -32 is outside [1, 4096] pixels",
    ),
    Case(
        "weights with 100,000 members",
        f"{WEIGHTS} weights/members.safetensors",
        REFUSED,
        "error: ensemble_size=100000 is outside [1, 100]",
    ),
    Case(
        "weights of 1,000,000,000 layers",
        f"{WEIGHTS} weights/depth.safetensors",
        REFUSED,
        "weights/depth.safetensors: config: depth is [1000000000, 1, 1, 1]; expected 4096 at most, with its numbers added up",
    ),
    Case(
        "weights whose noise leaves nothing",
        f"{WEIGHTS} weights/noise.safetensors",
        REFUSED,
        "error: num_train_timesteps=1000 of beta_start=0.0001 to beta_end=1.0 leave nothing of a latent, and sampling "
        "would divide by zero; expected a smaller beta_end, or fewer steps",
    ),
    Case(
        "weights with a threshold of 7",
        f"{WEIGHTS} weights/threshold.safetensors",
        REFUSED,
        "the header of weights/threshold.safetensors: threshold 7 is outside [0, 1]",
    ),
    Case(
        "weights of whole numbers",
        f"{WEIGHTS} weights/integers.safetensors",
        REFUSED,
        "weights/integers.safetensors holds TinyIML ... Build the model with the settings of the file, or choose another file",
    ),
    Case(
        "weights that do not fit their model",
        f"{WEIGHTS} weights/another_model.safetensors",
        REFUSED,
        "weights/another_model.safetensors holds TinyIML ... Its tensors: 4 missing (layers.0.weight, ...); 1 unexpected (x)",
    ),
    Case(
        "weights of another model than --model",
        f"{SET} --model MVSSNet",
        REFUSED,
        "model.safetensors holds a TinyIML, not a MVSSNet; leave --model out or pass another file",
    ),
    Case(
        "a flag that the model lacks",
        f"{SET} --ensemble_size 5",
        REFUSED,
        "error: TinyIML has no flag --ensemble_size",
    ),
    Case(
        "no test data",
        "test --checkpoint_path model.safetensors --device cpu",
        REFUSED,
        "error: give the test data by --test_data_path",
    ),
    Case(
        "test data that are not there",
        f"{TEST} gone.json",
        REFUSED,
        "error: gone.json does not exist; expected a folder with Tp/ and Gt/, or a JSON list",
    ),
    Case(
        "a folder with nothing in it",
        f"{TEST} nothing",
        REFUSED,
        "error: nothing has no Tp/ in it; expected a folder with Tp/ and Gt/, or a JSON list",
    ),
    Case(
        "a folder without masks",
        f"{TEST} no_masks",
        REFUSED,
        "error: no_masks has no Gt/ in it; expected a folder with Tp/ and Gt/, or a JSON list",
    ),
    Case(
        "a folder without images",
        f"{TEST} no_images",
        REFUSED,
        "error: no_images/Tp holds no files; expected a folder with Tp/ and Gt/, or a JSON list",
    ),
    Case(
        "a folder with images in a folder of their own",
        f"{TEST} nested",
        READ,
        "warning: nested/Tp holds 1 folders, such as more/, whose 1 files are left out: the framework takes what lies in Tp/ and Gt/ themselves; a JSON list can name others",
    ),
    Case(
        "a folder in which an image has no mask",
        f"{TEST} unpaired",
        REFUSED,
        "error: unpaired/Tp/b.png has no mask of its name; add the missing file, remove the other, or give a JSON list",
    ),
    Case("a list that is no JSON", f"{TEST} lists/no_json.json", REFUSED, "error: lists/no_json.json is no JSON"),
    Case("a list without pairs", f"{TEST} lists/empty.json", REFUSED, "error: lists/empty.json holds no pairs"),
    Case("a list that is a number", f"{TEST} lists/number.json", REFUSED, "error: lists/number.json holds no pairs"),
    Case(
        "an entry of one word",
        f"{TEST} lists/one_word.json",
        REFUSED,
        "error: lists/one_word.json: entry 0 is ['a.png']",
    ),
    Case("an entry of numbers", f"{TEST} lists/numbers.json", REFUSED, "error: lists/numbers.json: entry 0 is [1, 2]"),
    Case(
        "a mask that is null",
        f"{TEST} lists/null.json",
        REFUSED,
        "error: lists/null.json: entry 0 is ['a.png', None]",
    ),
    Case(
        "a mask that is NaN",
        f"{TEST} lists/nan.json",
        REFUSED,
        "error: lists/nan.json is no JSON (NaN is no number)",
    ),
    Case(
        "a list that is not UTF-8",
        f"{TEST} lists/latin.json",
        REFUSED,
        "error: lists/latin.json is no UTF-8 text (byte 3); store it as UTF-8",
    ),
    Case(
        "a list that is 100,000 brackets deep",
        f"{TEST} lists/deep.json",
        REFUSED,
        "error: lists/deep.json is no JSON that is read here (it is nested too deeply)",
    ),
    Case(
        "a path on a drive of Windows",
        f"{TEST} lists/drive.json",
        REFUSED,
        "error: lists/drive.json: 'C:\\\\photos\\\\a.png' is no path of this machine; write it relative to the list's folder",
    ),
    Case(
        "a path with a null character",
        f"{TEST} lists/nul.json",
        REFUSED,
        "error: lists/nul.json: 'a\\x00.png' is no path of this machine; write it relative to the list's folder",
    ),
    Case(
        "a path with half a character",
        f"{TEST} lists/half_a_character.json",
        REFUSED,
        "error: lists/half_a_character.json: '\\ud800.png' is no path of this machine",
    ),
    Case(
        "a forgery without a mask, in a list of ForensicHub's form",
        f"{TEST} lists/no_mask.json",
        REFUSED,
        "error: lists/no_mask.json: entry 'a.png' says label 1 and has no mask, so it would count as authentic; give its mask, or leave it out",
    ),
    Case(
        "two test sets that are one",
        f"{TEST} lists/twice_named.json --strict",
        REFUSED,
        "error: one and two are the same images, which a mean counts twice; remove them from one, or leave out --strict",
    ),
    Case(
        "a mask without a name",
        f"{TEST} lists/no_name.json",
        REFUSED,
        "error: lists/no_name.json: entry 0 is ['a.png', '']",
    ),
    Case(
        "a number of 5,000 digits",
        f"{TEST} lists/digits.json",
        REFUSED,
        "error: lists/digits.json is no JSON (a number of 5000 digits)",
    ),
    Case(
        "a list of training sets",
        f"{TEST} lists/training_sets.json",
        REFUSED,
        "error: lists/training_sets.json lists training sets; expected images, or {name: path} of test sets",
    ),
    Case(
        "a set that is called as the row of all sets",
        f"{TEST} lists/set_mean.json",
        REFUSED,
        "error: lists/set_mean.json: 'mean' cannot be a dataset's name; choose another",
    ),
    Case(
        "a list from Windows: backslashes, byte-order mark",
        f"{TEST} lists/windows.json",
        READ,
        "windows ... 1 ... 0.3865",
    ),
    Case("`negative` in lower case", f"{TEST} lists/lower_case.json", READ, "lower_case ... 2 ... 0.3865"),
    Case(
        "a pair listed twice",
        f"{TEST} lists/twice.json",
        READ,
        "warning: lists/twice.json lists 1 images twice, such as ...; each counts once",
    ),
    Case(
        "a pair listed twice",
        f"{TEST} lists/twice.json --strict",
        REFUSED,
        "error: lists/twice.json lists 1 images twice, such as ...; remove those entries, or leave out --strict",
    ),
    Case(
        "an image that is authentic and tampered",
        f"{TEST} lists/contradiction.json",
        REFUSED,
        "set/Tp/0.png is listed with ...set/Gt/0.png and with Negative; remove the entry that is wrong",
    ),
    Case(
        "an image that is not there",
        f"{TEST} lists/gone.json",
        REFUSED,
        "set/gone.png does not exist; mend the list that names it",
    ),
    Case(
        "a set that is a number",
        f"{TEST} lists/sets_of_numbers.json",
        REFUSED,
        "error: lists/sets_of_numbers.json does not name datasets; expected {name: path}",
    ),
    Case(
        "no sets",
        f"{TEST} lists/no_sets.json",
        REFUSED,
        "error: lists/no_sets.json does not name datasets; expected {name: path}",
    ),
    Case(
        "a set that is not there",
        f"{TEST} lists/set_gone.json",
        REFUSED,
        "error: no dataset of lists/set_gone.json is there: A (...nowhere.json); is each path right?",
    ),
    Case(
        "a variable that is not set",
        f"{TEST} lists/set_of_variable.json",
        REFUSED,
        "error: no dataset of lists/set_of_variable.json is there: A ...; is NOWHERE_AT_ALL right?",
    ),
    Case(
        "two sets of one name",
        f"{TEST} lists/set_twice.json",
        REFUSED,
        "error: lists/set_twice.json is no JSON (the key 'A' stands there twice)",
    ),
    Case(
        "an image of no bytes",
        f"{TEST} lists/empty_image.json",
        REFUSED,
        "bad/empty.png cannot be ...; replace it or remove the pair",
    ),
    Case(
        "an image that is text",
        f"{TEST} lists/text_image.json",
        REFUSED,
        "bad/text.jpg cannot be ...; replace it or remove the pair",
    ),
    Case(
        "an image that is a web page",
        f"{TEST} lists/page_image.json",
        REFUSED,
        "bad/page.jpg cannot be ...; replace it or remove the pair",
    ),
    Case(
        "an image that was cut off",
        f"{TEST} lists/cut_image.json",
        REFUSED,
        "bad/cut.jpg cannot be ... truncated ...; replace it or remove the pair",
    ),
    Case(
        "an image that was cut off, among others",
        f"{TEST} lists/cut_among_others.json --keep_going",
        READ,
        "warning: 1 of 2 pairs of lists/cut_among_others.json are faulty and left out: ...bad/cut.jpg cannot be",
    ),
    Case(
        "nothing but faulty images",
        f"{TEST} lists/cut_image.json --keep_going",
        REFUSED,
        "bad/cut.jpg cannot be ... truncated ...; replace it or remove the pair",
    ),
    Case(
        "a damaged AVIF called .jpg",
        f"{TEST} lists/avif_image.json",
        REFUSED,
        "bad/avif.jpg cannot be ...; replace it or remove the pair",
    ),
    Case(
        "a damaged DDS called .jpg",
        f"{TEST} lists/dds_image.json",
        REFUSED,
        "bad/dds.jpg cannot be ...; replace it or remove the pair",
    ),
    Case(
        "an EPS called .jpg, for which Ghostscript would be called",
        f"{TEST} lists/eps_image.json",
        REFUSED,
        "bad/eps.jpg cannot be ...; replace it or remove the pair",
    ),
    Case(
        "a PNG that claims 3600 megapixels",
        f"{TEST} lists/bomb_image.json",
        REFUSED,
        "bad/bomb.png ...; replace it or remove the pair",
    ),
    Case(
        "a PNG with fewer pixels than it claims",
        f"{TEST} lists/lie_image.json",
        REFUSED,
        "bad/lie.png cannot be ... truncated ...; replace it or remove the pair",
    ),
    Case("an image of 66,000 x 1 pixels", f"{TEST} lists/wide_image.json", READ, "wide_image ... 1 ..."),
    Case(
        "an image of real numbers",
        f"{TEST} lists/real_image.json",
        REFUSED,
        "bad/real.tif holds floating-point pixels; convert it to 8 or 16 bits per channel",
    ),
    Case(
        "an image of 12 bits in 16",
        f"{TEST} lists/twelve_bits_image.json",
        REFUSED,
        "bad/twelve_bits.png holds no level above 4000 of 65535; scale its levels to 8 or 16 bits",
    ),
    Case(
        "a colour image of 12 bits in 16",
        f"{TEST} lists/colours_image.json",
        REFUSED,
        "bad/colours.png holds no level above 4092 of 65535; scale its levels to 8 or 16 bits",
    ),
    Case(
        "a photo in JPEG 2000 of 16 bits a colour",
        f"{TEST} lists/deep_image.json",
        REFUSED,
        "bad/deep.jp2 is a JPEG 2000 of more than 8 bits per channel, of which white comes out black; store it as PNG or TIFF",
    ),
    Case(
        "a TIFF that viewers turn, with a mask of its stored pixels",
        f"{TEST} lists/turned_pair.json",
        READ,
        "turned_pair ... 1 ...",
    ),
    Case(
        "a JPEG of 10,000 scans, which a large one would take hours for",
        f"{TEST} lists/scans_image.json",
        REFUSED,
        "bad/scans.jpg cannot be decoded (has more than 100 scans; `jpegtran` makes a baseline JPEG of it without loss)",
    ),
    Case(
        "an image that is a pipe",
        f"{TEST} lists/pipe_image.json",
        REFUSED,
        "bad/pipe.png ...; replace it or remove the pair",
    ),
    Case(
        "an image that is a folder",
        f"{TEST} lists/folder_image.json",
        REFUSED,
        "bad/folder.png ...; replace it or remove the pair",
    ),
    Case("an image that is a link to itself", f"{TEST} lists/loop_image.json", REFUSED, "bad/loop.png ..."),
    Case(
        "a mask of no bytes",
        f"{TEST} lists/empty_mask.json",
        REFUSED,
        "bad/empty.png cannot be ...; replace it or remove the pair",
    ),
    Case(
        "a mask of another size",
        f"{TEST} lists/small_mask.json",
        REFUSED,
        "masks/small.png is 48x16 pixels, its image ...set/Tp/0.png 48x32; resize the mask",
    ),
    Case(
        "a mask on its side",
        f"{TEST} lists/turned_mask.json",
        REFUSED,
        "masks/turned.png is 32x48 pixels, its image ...set/Tp/0.png 48x32; turn the mask",
    ),
    Case(
        "a mask of 0 and 1",
        f"{TEST} lists/dark_mask.json",
        REFUSED,
        "masks/dark.png is dark (highest level 1), so it would count as empty; store tampered pixels as 255",
    ),
    Case(
        "a grey mask",
        f"{TEST} lists/grey_mask.json",
        REFUSED,
        "masks/grey.png is not black and white (79% of it is grey or coloured); binarise it to 0 and 255",
    ),
    Case(
        "a mask whose shape is in its transparency",
        f"{TEST} lists/alpha_mask.json",
        REFUSED,
        "masks/alpha.png has its shape in the alpha channel, which is not read; store it as black and white",
    ),
    Case(
        "a mask of real numbers",
        f"{TEST} lists/real_mask.json",
        REFUSED,
        "masks/real.tif holds floating-point pixels; convert it to 8 or 16 bits per channel",
    ),
    Case(
        "a mask without any white",
        f"{TEST} lists/black_mask.json",
        READ,
        'warning: ...masks/black.png is empty, so its image counts as authentic; list that as "Negative" if it is',
    ),
    Case(
        "an inverted mask",
        f"{TEST} lists/inverted_mask.json",
        READ,
        "warning: ...masks/inverted.png looks inverted (white all around a black region); white means tampered",
    ),
    Case(
        "an output folder that is a file",
        f"{SET} --output_dir file",
        REFUSED,
        "error: cannot write to file: File exists; choose another --output_dir",
    ),
    Case(
        "an output folder inside a file",
        f"{SET} --output_dir file/out",
        REFUSED,
        "error: cannot write to file/out: Not a directory; choose another --output_dir",
    ),
    Case(
        "figures of another checkpoint in the output folder",
        f"{SET} --output_dir scored/test",
        REFUSED,
        "error: scored/test/results.json was made with other weights, ... and is not overwritten; choose another folder, or move that file",
    ),
    Case(
        "another program's results.json in the output folder",
        f"{SET} --output_dir foreign",
        REFUSED,
        "error: foreign/results.json was not made by this command and is not overwritten",
    ),
    Case(
        "another program's .lock in the output folder",
        f"{SET} --output_dir foreign/locked",
        REFUSED,
        "error: foreign/locked/.lock is empty or not of this command, whose lock goes there; choose another folder, or "
        "move that file",
    ),
    Case(
        "figures of another checkpoint in the output folder",
        "robust --device cpu --num_workers 0 --checkpoint_path model.safetensors --test_data_path set/list.json --output_dir scored/robust",
        REFUSED,
        "error: scored/robust/robust.json was made with other weights, ... and is not overwritten",
    ),
    Case(
        "images that are not there",
        "robust --device cpu --num_workers 0 --checkpoint_path model.safetensors --test_data_path lists/gone.json",
        REFUSED,
        "set/gone.png does not exist; mend the list that names it",
    ),
    Case(
        "figures of another checkpoint in the output folder",
        f"{SWEEP} --output_dir scored/sweep --vary ensemble_size=1,2",
        REFUSED,
        "error: scored/sweep/sweep.json was made with other weights, ... and is not overwritten",
    ),
    Case("nothing to vary", SWEEP, REFUSED, "error: the following arguments are required: --vary"),
    Case(
        "a setting that is none",
        f"{SWEEP} --vary steps=1",
        REFUSED,
        "error: --vary steps=1: 'steps' is not one of sampler, num_inference_steps, ...",
    ),
    Case(
        "a value that is none of the setting's",
        f"{SWEEP} --vary ensemble_size=many",
        REFUSED,
        "error: --vary ensemble_size=many: 'many' is no int",
    ),
    Case(
        "no runs",
        f"{SWEEP} --vary ensemble_size=1 --noise_seeds 0",
        REFUSED,
        "error: --noise_seeds 0 is outside [1, 1000]",
    ),
    Case(
        "a model that does not sample",
        f"{SWEEP} --vary ensemble_size=1",
        REFUSED,
        "error: TinyIML has no sampling settings to sweep; pass a checkpoint of DiffIML",
    ),
    Case("no such photo", f"{PREDICT} gone.png", REFUSED, "error: gone.png does not exist"),
    Case(
        "a mask of the user's in the output folder",
        f"{PREDICT} one_photo --output_dir truths",
        REFUSED,
        "error: truths/a_mask.png was not made by this command and is not overwritten",
    ),
    Case("a folder without images", f"{PREDICT} nothing", REFUSED, "error: nothing holds no"),
    Case(
        "broken images among others",
        f"{PREDICT} bad --output_dir out",
        FAULTS,
        "bad/empty.png cannot be read as an image",
    ),
    Case(
        "names that differ in their suffixes, are no UTF-8, or 249 bytes long",
        f"{PREDICT} namesakes --output_dir out",
        READ,
        "b\\udcff.png",
    ),
    Case(
        "a photo of 66,000 x 1 pixels, longer than any JPEG",
        f"{PREDICT} bad/wide.png --output_dir out",
        READ,
        "wide.png: uncalibrated; ... of its area lies above 0.5 ... masks, results.jsonl and report.html are in out",
    ),
    Case("masks among the images", f"{PREDICT} set/Tp --output_dir set/Tp", REFUSED, "choose another"),
    Case(
        "a threshold above 1",
        f"{PREDICT} set/clean.png --threshold 7 --output_dir out",
        REFUSED,
        "error: --threshold 7.0 is outside [0, 1]; probabilities are compared with it",
    ),
    Case(
        "a size below 1",
        f"{PREDICT} set/clean.png --image_size 0 --output_dir out",
        REFUSED,
        "error: --image_size 0 must be a positive number",
    ),
    Case(
        "an output folder that is a file",
        f"{PREDICT} set/clean.png --output_dir file",
        REFUSED,
        "error: cannot write to file: File exists; choose another --output_dir",
    ),
    Case(
        "a variable that is not set, beside weights",
        "predict set/clean.png --checkpoint_path ''",
        REFUSED,
        "error: the checkpoint's path is empty; pass a weights file",
    ),
    Case(
        "weights that are not there",
        "predict set/clean.png --checkpoint_path gone.pth",
        REFUSED,
        "error: checkpoint gone.pth does not exist; pass a weights file, the output_dir of a training, small, or hub:ORGANISATION/NAME",
    ),
    Case(
        "no training data",
        "train --device cpu --model TinyIML",
        REFUSED,
        "error: give the training set with --data_path",
    ),
    Case(
        "training data that are not there",
        f"{TRAIN} gone.json",
        REFUSED,
        "error: gone.json does not exist; expected a folder with Tp/ and Gt/, or a JSON list",
    ),
    Case(
        "a list of nothing but faulty images",
        f"{TRAIN} lists/cut_image.json --keep_going",
        REFUSED,
        "bad/cut.jpg cannot be ... truncated ...; replace it or remove the pair",
    ),
    Case(
        "a faulty image",
        f"{TRAIN} lists/cut_among_others.json",
        REFUSED,
        "bad/cut.jpg cannot be ... truncated ...; replace it or remove the pair",
    ),
    Case(
        "photographs that are not there",
        f"{TRAIN} synth:gone",
        REFUSED,
        "error: gone is not a folder of photographs",
    ),
    Case(
        "one photograph, where a splice needs two",
        f"{TRAIN} synth:one_photo",
        REFUSED,
        "error: one_photo holds 1 photographs; a splice needs at least two",
    ),
    Case(
        "an unknown manipulation",
        f"{TRAIN} synth:photos --synth_kinds slice",
        REFUSED,
        "error: kind='slice' is not one of splice, copy_move, removal; did you mean 'splice'?",
    ),
    Case(
        "a model that is not registered",
        "train --device cpu --model TinyIMM --data_path set",
        REFUSED,
        "error: no model is called 'TinyIMM'; did you mean 'TinyIML'?",
    ),
    Case("a flag that no model has", f"{TRAIN} set --depht 3", REFUSED, "error: unknown flag --depht"),
    Case(
        "a rate of learning without an end",
        f"{TRAIN} set --lr inf",
        REFUSED,
        "error: --lr inf must be above 0, at most 1, and finite",
    ),
    Case("a rate of learning below 0", f"{TRAIN} set --lr -1", REFUSED, "error: --lr -1.0 must be above 0"),
    Case(
        "a rate of learning that no number holds",
        f"{TRAIN} set --lr 1e300",
        REFUSED,
        "error: --lr 1e+300 must be above 0, at most 1",
    ),
    Case(
        "a folder that no shell expands",
        f"{TRAIN} set --cache=~/pixels",
        REFUSED,
        "error: --cache ~/pixels must be written out: no shell expands that ~",
    ),
    Case(
        "epochs without an end",
        f"{TRAIN} set --epochs 99999999999999999999",
        REFUSED,
        "error: --epochs 99999999999999999999 must be at most 10000000",
    ),
    Case(
        "an update without an end",
        f"{TRAIN} set --total_batch_size 99999999999999",
        REFUSED,
        "error: --total_batch_size 99999999999999 must be at most 10000000",
    ),
    Case(
        "more processes than any machine has",
        f"{SET} --num_workers 100000",
        REFUSED,
        "error: --num_workers 100000 must be 0 to 1024",
    ),
    Case("no epochs", f"{TRAIN} set --epochs 0", REFUSED, "error: --epochs 0 must be a positive number"),
    Case(
        "windows of images that are resized",
        f"{TRAIN} set --crop_size 64",
        REFUSED,
        "error: --crop_size 64 cuts windows at the images' own resolution; add --if_padding",
    ),
    Case(
        "a total that batches do not make up",
        f"{TRAIN} set --batch_size 3 --total_batch_size 8",
        REFUSED,
        "error: --total_batch_size 8 cannot be made of 1 processes with --batch_size 3; choose --batch_size 1 or 2 or 4 or 8",
    ),
    Case(
        "a size that the model cannot take",
        "train --device cpu --data_path set --image_size 100",
        REFUSED,
        "error: --image_size 100 is not a multiple of 32, which DiffIML needs; try 96",
    ),
    Case(
        "a window that the model cannot take",
        "train --device cpu --data_path set --if_padding --crop_size 100",
        REFUSED,
        "error: --crop_size 100 is not a multiple of 32, which DiffIML needs; try 96",
    ),
    Case(
        "one of several windows that the model cannot take",
        "train --device cpu --data_path synth:set --if_padding --synth_samples 4 --synth_windows 96,100",
        REFUSED,
        "error: --synth_windows 100 is not a multiple of 32, which DiffIML needs; try 96",
    ),
    Case(
        "one of several windows that no photograph fills",
        "train --device cpu --data_path synth:set --if_padding --synth_samples 4 --synth_windows 96,9999",
        REFUSED,
        "error: --synth_windows 96,9999 must be sides of at most 4096 pixels",
    ),
    Case(
        "nothing to go on from",
        f"{TRAIN} set --resume gone.pt",
        REFUSED,
        "error: cannot read gone.pt: No such file or directory",
    ),
    Case(
        "weights of another training in the output folder",
        f"{TRAIN} set --output_dir foreign/training",
        REFUSED,
        "error: foreign/training holds best.safetensors of a run without its training_state.pt, which would be overwritten",
    ),
    Case(
        "a configuration of the user's in the output folder",
        f"{TRAIN} set --output_dir foreign/run",
        REFUSED,
        "error: foreign/run/config.yaml was not made by this command and is not overwritten; choose another folder, or move that file",
    ),
    Case(
        "a variable of the shell that is not set",
        f"{TRAIN} set --output_dir ''",
        REFUSED,
        "the folder to write to has an empty name; name one, or `.` for the current folder",
    ),
    Case(
        "a value that the model's constructor refuses",
        f"{TRAIN} set --dropout 5",
        REFUSED,
        "TinyIML cannot be built with these values of its flags (ValueError: dropout probability has to be between 0 and 1",
    ),
    Case(
        "an output folder that is a file",
        f"{TRAIN} set --output_dir file",
        REFUSED,
        "error: cannot write to file: File exists; choose another --output_dir",
    ),
    Case(
        "no source",
        "convert --output out.safetensors",
        REFUSED,
        "error: the following arguments are required: source",
    ),
    Case(
        "a source that is not there",
        "convert gone.pth --output out.safetensors",
        REFUSED,
        "error: cannot read gone.pth: No such file or directory",
    ),
    Case(
        "a source that would run a command",
        "convert weights/code.pth --output out.safetensors",
        REFUSED,
        "weights/code.pth ... nothing of it was run; ask for a file of the weights alone",
    ),
    Case(
        "a source that is no release of the authors",
        "convert model.safetensors --output out.safetensors",
        REFUSED,
        "error: model.safetensors is no checkpoint of the authors' release",
    ),
    Case(
        "a target of another format",
        "convert weights/page.pth --output out.pth",
        REFUSED,
        "error: out.pth is no .safetensors file; name one",
    ),
    Case(
        "weights that are not there",
        "release gone.safetensors out.safetensors",
        REFUSED,
        "error: checkpoint gone.safetensors does not exist",
    ),
    Case(
        "a target that is there",
        "release model.safetensors weights/empty.safetensors",
        REFUSED,
        "error: weights/empty.safetensors is there already and is not overwritten; name another file, or move that",
    ),
    Case(
        "a card's name that is taken",
        "release model.safetensors foreign/card.safetensors",
        REFUSED,
        "error: foreign/card.md is there already and is not overwritten; name another file, or move that",
    ),
    Case(
        "results without figures",
        "release model.safetensors out.safetensors --results foreign/results.json",
        REFUSED,
        "error: foreign/results.json lacks checkpoint, command, ...; make it again",
    ),
    Case(
        "figures of other weights",
        "release model.safetensors out.safetensors --results tested/results.json",
        REFUSED,
        "error: tested/results.json is of other weights (...) than model.safetensors; test this first",
    ),
    Case(
        "a mean that counts weights twice",
        "release model.safetensors model.safetensors out.safetensors",
        REFUSED,
        "error: model.safetensors and model.safetensors hold the same weights, which would count twice in the mean",
    ),
    Case(
        "figures of a mean that was not tested",
        "release model.safetensors model.safetensors out.safetensors --results tested/results.json",
        REFUSED,
        "error: tested/results.json cannot be of the mean of 2 checkpoints",
    ),
    Case(
        "a folder that is not there",
        "report gone",
        REFUSED,
        "error: gone holds no results.json, robust.json, sweep.json, complexity.json",
    ),
    Case(
        "a folder without runs",
        "report nothing",
        REFUSED,
        "error: nothing holds no results.json, robust.json, sweep.json, complexity.json",
    ),
    Case(
        "a page of others in the output folder",
        "report nothing --output_dir foreign/report",
        REFUSED,
        "error: foreign/report/report.html was not made by this command and is not overwritten",
    ),
    Case(
        "figures of another form",
        "report reported",
        REFUSED,
        "error: reported/results.json is []; expected fields by their names",
    ),
    Case(
        "figures of a set that is called as the row of all sets",
        "report tested",
        REFUSED,
        "error: tested/per_image.jsonl, line 1: 'mean' cannot be a dataset's name; choose another",
    ),
    Case("a folder that is not there", "study gone", REFUSED, "error: gone holds no ROW/SEED/test/results.json"),
    Case("a folder without runs", "study nothing", REFUSED, "error: nothing holds no ROW/SEED/test/results.json"),
    Case(
        "tables of others in the output folder",
        "study set --output_dir foreign/study",
        REFUSED,
        "error: foreign/study/study.md was not made by this command and is not overwritten",
    ),
    Case("rows to compare in another form", "study set --compare a", REFUSED, "error: --compare a: expected ROW=OTHER"),
    Case(
        "an unknown dataset",
        "datasets describe COVRAGE",
        REFUSED,
        "error: no dataset 'COVRAGE'; did you mean 'COVERAGE'?",
    ),
    Case(
        "an unknown action",
        "datasets weigh",
        REFUSED,
        "error: argument action: invalid choice: 'weigh' (choose from ...",
    ),
    Case(
        "no list",
        "datasets check",
        REFUSED,
        "error: datasets check needs a list, for example: datasets check COVERAGE.json",
    ),
    Case(
        "a list that is not there",
        "datasets check gone.json",
        REFUSED,
        "error: gone.json does not exist; expected a folder with Tp/ and Gt/, or a JSON list",
    ),
    Case(
        "a list that is no JSON",
        "datasets check lists/no_json.json",
        FAULTS,
        "no_json: list: lists/no_json.json is no JSON",
    ),
    Case(
        "broken images",
        "datasets check lists/cut_image.json",
        FAULTS,
        "cut_image: undecodable: ...bad/cut.jpg cannot be ... truncated ...",
    ),
    Case(
        "a damaged AVIF called .jpg",
        "datasets check lists/avif_image.json",
        FAULTS,
        "avif_image: undecodable: ...bad/avif.jpg cannot be",
    ),
    Case(
        "a damaged DDS called .jpg",
        "datasets check lists/dds_image.json",
        FAULTS,
        "dds_image: undecodable: ...bad/dds.jpg cannot be",
    ),
    Case(
        "an image that is a pipe",
        "datasets check lists/pipe_image.json",
        FAULTS,
        "pipe_image: undecodable: ...bad/pipe.png",
    ),
    Case(
        "a pair listed twice",
        "datasets check lists/twice.json",
        FAULTS,
        "twice: duplicate: ...set/Tp/0.png is listed twice, and trained on twice; remove one entry",
    ),
    Case(
        "a file in a folder that is not there",
        "datasets check set/list.json --json gone/report.json",
        REFUSED,
        "error: cannot write gone/report.json: gone: No such file or directory; make that folder, or choose another file",
    ),
    Case(
        "the list itself as the file to write",
        "datasets check set/list.json --json set/list.json",
        REFUSED,
        "error: set/list.json is there already and is not overwritten; name another file, or move that",
    ),
    Case(
        "training data that are not there",
        "datasets check set/list.json --trained_on gone.json",
        REFUSED,
        "error: gone.json does not exist; expected a folder with Tp/ and Gt/, or a JSON list",
    ),
    Case(
        "images that were trained on",
        "datasets check set --trained_on set/list.json",
        FAULTS,
        "set: trained on: ...set/Tp/0.png is ... of the training data; remove it from one of the two (2 more)",
    ),
    Case(
        "an image that is not there, whose name is no UTF-8",
        "datasets check lists/names.json",
        FAULTS,
        "names: missing: ...namesakes/gone\\udcff.png does not exist",
    ),
    Case(
        "no folder",
        "datasets prepare mine",
        REFUSED,
        "error: datasets prepare mine needs --root, the folder that it was unpacked to",
    ),
    Case(
        "a folder that is not there",
        "datasets prepare mine --root gone",
        REFUSED,
        "gone is no folder; expected that of mine, or one that holds it",
    ),
    Case(
        "a folder in no known layout",
        "datasets prepare COVERAGE --root nothing",
        REFUSED,
        "nothing holds COVERAGE in no known layout; expected image/N.tif authentic, ...",
    ),
    Case(
        "a name that is a path",
        "datasets prepare ../mine --root set",
        REFUSED,
        "error: '../mine' is no name of a dataset but a path; name it, and give its folder by --root",
    ),
    Case(
        "a name that is a path",
        "datasets prepare .. --root set",
        REFUSED,
        "error: '..' is no name of a dataset but a path; name it, and give its folder by --root",
    ),
    Case(
        "a list in the way",
        "datasets prepare mine --root set --output taken.json",
        REFUSED,
        "taken.json was not made by this command and is not overwritten; choose another folder",
    ),
    Case(
        "a list that leads out of its folder",
        "datasets prepare mine --root dots",
        READ,
        "mine: 0 authentic, 1 tampered images 1 masks corrected, 0 files left out: ...dots/mine_masks/changes.txt",
    ),
    Case(
        "two links that lead to the folder they lie in",
        "datasets prepare mine --root circle",
        READ,
        "mine: 0 authentic, 1 tampered images",
    ),
    Case(
        "a mask of no bytes",
        "datasets prepare mine --root half",
        READ,
        "mine: 0 authentic, 1 tampered images 0 masks corrected, 1 files left out: ...half/mine_masks/changes.txt",
    ),
    Case(
        "a download whose own table is damaged",
        "datasets prepare NIST16 --root nist",
        REFUSED,
        "error: a list of NIST16 in ... is not as its authors made it (KeyError: 'ProbeMaskFileName'); fetch it again",
    ),
    Case(
        "no folder of a dataset",
        "datasets prepare all --root nothing",
        REFUSED,
        "error: --root nothing holds no folder of a dataset; expected any of CASIAv2, ...",
    ),
    Case(
        "one list for all datasets",
        "datasets prepare all --root set --output out.json",
        REFUSED,
        "error: --output out.json is one list, but `all` writes one for each dataset; leave it out",
    ),
    Case(
        "photographs that are not there",
        "tamper gone --output_dir out",
        REFUSED,
        "error: gone is not a folder of photographs",
    ),
    Case(
        "one photograph, where a splice needs two",
        "tamper one_photo --output_dir out",
        REFUSED,
        "error: one_photo holds 1 photographs; a splice needs at least two",
    ),
    Case(
        "a label map of another size",
        "tamper mapped/photos --output_dir out --images 2",
        REFUSED,
        "error: mapped/regions/a.png is 32x48 pixels, its photograph a.png 64x48; make the label map anew or remove it",
    ),
    Case(
        "a label map of two photographs",
        "tamper shared/photos --output_dir out --images 2",
        REFUSED,
        "error: shared/regions/a.png has the name of two photographs, a.bmp and a.png; rename or remove the one that it is not of",
    ),
    Case(
        "broken and tiny photographs among others",
        "tamper mixed --output_dir out --images 2",
        READ,
        "warning: mixed/broken.jpg ...; left out warning: mixed/tiny.png is 8x8 pixels, expected 32 or more each way; left out",
    ),
    Case(
        "an unknown manipulation",
        "tamper photos --output_dir out --kinds slice",
        REFUSED,
        "error: kind='slice' is not one of splice, copy_move, removal; did you mean 'splice'?",
    ),
    Case(
        "a window that no memory holds",
        "tamper photos --output_dir out --window 100000",
        REFUSED,
        "error: a window of 100000 pixels is not made; expected 1 to 4096",
    ),
    Case(
        "no images",
        "tamper photos --output_dir out --images 0",
        REFUSED,
        "error: --images 0 must be a positive number",
    ),
    Case(
        "more images than any disk holds",
        "tamper photos --output_dir out --images 99999999999999",
        REFUSED,
        "error: 99999999999999 images are not made at a time; expected 10000000 at most",
    ),
    Case(
        "a share above 1",
        "tamper photos --output_dir out --authentic 2",
        REFUSED,
        "error: --authentic 2.0 must be 0 to 1",
    ),
    Case(
        "styles that are not there",
        "tamper photos --output_dir out --strength gone.yaml",
        REFUSED,
        "error: cannot read gone.yaml: No such file or directory",
    ),
    Case(
        "styles of another form",
        "tamper photos --output_dir out --strength configs/styles.yaml",
        REFUSED,
        "error: configs/styles.yaml: world: expected {key: value, ...}, got 3",
    ),
    Case(
        "a list in the output folder",
        "tamper photos --output_dir tampered",
        REFUSED,
        "error: tampered/list.json was not made by this command and is not overwritten; choose another folder, or move that file",
    ),
    Case(
        "masks that are not there",
        "distill --masks gone --output_dir out --device cpu",
        REFUSED,
        "error: gone holds no mask; expected a folder of images",
    ),
    Case(
        "a folder without masks",
        "distill --masks nothing --output_dir out --device cpu",
        REFUSED,
        "error: nothing holds no mask; expected a folder of images",
    ),
    Case(
        "masks that are not black and white",
        "distill --masks lists/grey_mask.json --output_dir out --device cpu",
        REFUSED,
        "masks/grey.png is not binary: 48 levels from 0 to 235, expected 0 and one other; mend it, or cut it at 127 by --binarise",
    ),
    Case(
        "a mask whose shape is in its transparency",
        "codec-report --masks lists/alpha_mask.json --device cpu",
        REFUSED,
        "masks/alpha.png has its shape in the alpha channel, which is not read; store it in black and white",
    ),
    Case(
        "a teacher of 1,000,000,000 layers",
        "distill --teacher teacher --output_dir out --device cpu",
        REFUSED,
        "error: cannot load the SD VAE 'teacher' (teacher/config.json: layers_per_block is 1000000000; expected 1 to 64)",
    ),
    Case(
        "weights of another training in the output folder",
        "distill --output_dir foreign/codec --device cpu",
        REFUSED,
        "error: foreign/codec holds lightvae.safetensors of a run without its training_state.pt",
    ),
    Case(
        "a size that no memory holds",
        "codec-report --masks set/Gt --image_size 99968 --device cpu",
        REFUSED,
        "error: --image_size 99968 is outside [0, 4096] pixels",
    ),
    Case(
        "masks that are not there",
        "codec-report --masks gone --device cpu",
        REFUSED,
        "error: gone holds no mask; expected a folder of images",
    ),
    Case(
        "weights that are not there",
        "codec-report --masks set/Gt --codec_weights gone.safetensors --device cpu",
        REFUSED,
        "gone.safetensors: No such file or directory",
    ),
    Case(
        "a model that is not registered",
        "complexity --model DifIML",
        REFUSED,
        "error: no model is called 'DifIML'; did you mean 'DiffIML'?",
    ),
    Case(
        "a size that the model cannot take",
        "complexity --image_size 100",
        REFUSED,
        "error: --image_size 100 is not a multiple of 32, which DiffIML needs; try 96",
    ),
    Case(
        "a file in a folder that is not there",
        "complexity --json gone/cost.json",
        REFUSED,
        "error: cannot write gone/cost.json: gone: No such file or directory; make that folder, or choose another file",
    ),
    Case(
        "a file of another program to write",
        "complexity --model TinyIML --json statement.json",
        REFUSED,
        "error: statement.json is there already and is not overwritten; name another file, or move that",
    ),
    Case(
        "an unknown target",
        "reproduce tabel2",
        REFUSED,
        "error: no target is called 'tabel2'; did you mean 'table2'?",
    ),
    Case(
        "a flag that no step has",
        "reproduce table2 --gpsu 8",
        REFUSED,
        "error: no step of table2 has a flag --gpsu; did you mean '--gpus'?",
    ),
    Case(
        "a row that the study has not",
        "reproduce study --rows gone",
        REFUSED,
        "error: --rows gone is no row of the study",
    ),
    Case(
        "no configuration of that name",
        "configs nothing_like_it",
        REFUSED,
        "error: no configuration's name holds 'nothing_like_it'; `benco configs` lists all of them",
    ),
    Case(
        "a file in a folder that is not there",
        "bench --json gone/bench.json --device cpu",
        REFUSED,
        "error: cannot write gone/bench.json: gone: No such file or directory; make that folder, or choose another file",
    ),
    Case(
        "a file of another program to write",
        "bench --json statement.json --device cpu",
        REFUSED,
        "error: statement.json is there already and is not overwritten; name another file, or move that",
    ),
    Case(
        "a plot and figures in one file",
        "bench --json bench.json --plot bench.json --device cpu",
        REFUSED,
        "error: bench.json is no .png file; name one",
    ),
    Case(
        "a time that is no number",
        "bench --seconds nan --device cpu",
        REFUSED,
        "error: --seconds nan is outside (0, 3600]",
    ),
    Case(
        "a size that is no multiple of 32",
        "bench --image_size 100 --device cpu",
        REFUSED,
        "error: --image_size 100 is not a multiple of 32, which DiffIML needs; try 96",
    ),
    Case("no size", "bench --image_size 0 --device cpu", REFUSED, "error: --image_size 0 is outside [1, 4096] pixels"),
    Case(
        "a model that is not there to compare with",
        "bench --zoo MVSSNt --device cpu",
        REFUSED,
        "error: no model is called 'MVSSNt'; did you mean 'MVSSNet'",
    ),
    Case("too few images", f"{CALIBRATE} --output out.safetensors --output_dir out", REFUSED, "images"),
    Case(
        "figures of other weights in the output folder",
        f"{CALIBRATE} --output out.safetensors --output_dir scored/calibrate",
        REFUSED,
        "error: scored/calibrate/calibration.json was made with other weights, ... and is not overwritten",
    ),
    Case(
        "a file of other weights as output",
        f"{CALIBRATE} --output weights/another_model.safetensors --output_dir out",
        REFUSED,
        "error: weights/another_model.safetensors was not made by this command and is not overwritten",
    ),
    Case(
        "weights that are not there",
        "calibrate --device cpu --checkpoint_path gone.pth --test_data_path set/list.json",
        REFUSED,
        "error: checkpoint gone.pth does not exist",
    ),
    Case(
        "weights and figures in one file",
        f"{CALIBRATE} --output out/calibration.json --output_dir out",
        REFUSED,
        "error: out/calibration.json is no .safetensors file; name one",
    ),
    Case("a share above 1", f"{CALIBRATE} --max_misses 2 --output out.safetensors", REFUSED, "--max_misses"),
    Case(
        "no images to train on",
        "demo --train_images 0 --output_dir out --device cpu",
        REFUSED,
        "error: --train_images 0 and --test_images 60 must be 1 or more",
    ),
    Case(
        "a page of the user's in the output folder",
        "demo --output_dir foreign/demo --device cpu",
        REFUSED,
        "error: foreign/demo/report.html was not made by this command and is not overwritten",
    ),
    Case("an output folder that is a file", "demo --output_dir file --device cpu", REFUSED, "file"),
    Case(
        "weights that are not there",
        "export --checkpoint_path gone.safetensors",
        REFUSED,
        "error: checkpoint gone.safetensors does not exist",
    ),
    Case(
        "weights that are not there",
        "serve --checkpoint_path gone.pth --device cpu",
        REFUSED,
        "error: checkpoint gone.pth does not exist",
    ),
)


def page() -> str:
    """docs/bad_inputs.md."""
    verbs: dict[str, list[Case]] = {}
    for case in CASES:
        verb = case.words.split()[0]
        verbs.setdefault(verb if verb in VERBS else "no verb", []).append(case)
    lines = [_LEAD.format(count=len(CASES))]
    for verb, cases in verbs.items():
        lines += ["", f"## {verb}", "", "| wrong | command | status | says |", "|---|---|---|---|"]
        lines += [
            f"| {case.wrong} | {as_code(case.words.replace(_HOW, ''))} | {case.status} | {as_code(case.said)} |"
            for case in cases
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

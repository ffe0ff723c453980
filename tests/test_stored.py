import json
import os
import time
import zipfile
from typing import TypedDict

import pytest

from diffiml_plugin import stored
from diffiml_plugin.errors import DiffIMLError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (BOMB, "aliases that stand for more than"),
        ("a: &a [*a]", "or for themselves"),
        ("[" * 20_000, "nested too deeply"),
        ("a: !!int ''", "does not fit its tag"),
        ("a: !!timestamp x", "does not fit its tag"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML in line 1, column 4"),
        ("a: " + "9" * 5000, "does not fit its tag"),
        ("a: b\n  c: d", "is not YAML in line 2, column 4"),
        ("#" * (stored.YAML_LIMIT + 1), "more than the 262144 that are read"),
    ],
)
def test_no_yaml_costs_more_than_it_says(content, expected, tmp_path):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(DiffIMLError, match=expected):
        stored.read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize("number", ["0100", "-017", "1:30", "1:30:00", "1:30.5"])
def test_a_number_that_yaml_takes_for_another_is_refused(number):
    with pytest.raises(DiffIMLError, match=f"here is not YAML in line 1, column 4: '{number}' is another number"):
        stored.parse_yaml(f"a: {number}", "here")
    assert stored.parse_yaml(f"a: '{number}'\nb: 0\nc: 100", "here") == {"a": number, "b": 0, "c": 100}


def test_anchors_that_stand_for_little_are_read(tmp_path):
    (tmp_path / "x.yaml").write_text("\ufeffa: &a {x: 1}\nb: {<<: *a, y: 2}\n", encoding="utf-8")
    assert stored.read_yaml(tmp_path / "x.yaml") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1, "a": 2}', "the key 'a' stands there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, r"is no JSON \(a number of 5000 digits\)$"),
        ("{", "is no JSON"),
        ("", "is no JSON"),
    ],
)
def test_json_is_read_strictly(content, expected):
    with pytest.raises(DiffIMLError, match=f"(?s)^here .*{expected}"):
        stored.parse_json(content, "here")


def test_json_of_too_many_values_is_refused_before_it_is_parsed(monkeypatch):
    assert len(stored.parse_json("[" + "{}," * 99 + "{}]", "list.json")) == 100
    monkeypatch.setattr(stored, "_JSON_VALUES", 100)
    monkeypatch.setattr(json, "loads", lambda *_, **options: pytest.fail("it was parsed"))
    with pytest.raises(DiffIMLError, match="list.json holds more than 100 values; split it"):
        stored.parse_json("[" + "{}," * 99 + "{}]", "list.json")


def test_a_key_twice_among_many_is_soon_told():
    """In one pass: to compare all with all would take minutes."""
    many = ",".join(f'"k{number}":0' for number in range(100_000))
    started = time.process_time()
    with pytest.raises(DiffIMLError, match="the key 'k99999' stands there twice"):
        stored.parse_json(f'{{{many},"k99999":0}}', "here")
    assert time.process_time() - started < 20


def test_only_regular_files_of_a_stated_size_are_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b"123456")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for path, expected in (
        ("pipe", "is a pipe or a device"),
        ("/dev/zero", "is a pipe or a device"),
        (".", "is a folder"),
        ("loop", "Too many levels of symbolic links"),
        ("gone", "No such file"),
        ("nul\0l", "null"),
        ("large", "has 6 bytes, more than the 5"),
        ("latin", "byte 3"),
    ):
        with pytest.raises(DiffIMLError, match=expected):
            stored.read_text(tmp_path / path, 5)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(10**6))
    stored.require_unzipped(tmp_path / "x.npz", 10**6)
    with pytest.raises(DiffIMLError, match="would unpack to 1000000 bytes, more than the 999999"):
        stored.require_unzipped(tmp_path / "x.npz", 10**6 - 1)


class Point(TypedDict):
    f1: float


KNOWN = {"size": int | None, "rate": float, "padded": bool, "name": str, "stages": list[int], "sets": dict[str, Point]}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], r"is \[\]; expected fields"),
        ({"size": True}, "size is True; expected int"),
        ({"size": 1.0}, "size is 1.0"),
        ({"size": 2**63}, "size is 9223372036854775808"),
        ({"rate": float("nan")}, "rate is nan; expected float"),
        ({"rate": float("inf")}, "rate is inf"),
        ({"rate": "0.1"}, "rate is '0.1'"),
        ({"padded": 1}, "padded is 1; expected bool"),
        ({"name": ["x"]}, r"name is \['x'\]; expected str"),
        ({"name": "x" * 10_001}, "name is 'xxx"),
        ({"stages": ["x"]}, "stages"),
        ({"sets": [1]}, "sets"),
        ({"sets": {"a": {}}}, "sets"),
        ({"sets": {"a": {"f1": "x"}}}, "sets"),
        ({"sise": 1}, "a field 'sise' that this version does not know; did you mean 'size'.*update the package"),
        ({3: 1}, "a field 3"),
    ],
)
def test_what_is_unknown_or_of_another_type_does_not_pass(said, expected):
    with pytest.raises(DiffIMLError, match=f"^here.*{expected}"):
        stored.checked(said, KNOWN, "here")


def test_what_is_known_and_of_its_type_passes():
    said = {"size": None, "rate": 1, "padded": False, "name": "x", "stages": [1, 2], "sets": {"a": {"f1": 1.0}}}
    assert stored.checked(said, KNOWN, "here") == said


def test_a_key_twice_is_refused_in_yaml_too():
    assert stored.parse_yaml("a: {b: 1}\nc: {b: 1}\n", "x") == {"a": {"b": 1}, "c": {"b": 1}}
    with pytest.raises(DiffIMLError, match="x is not YAML in line 2, column 1: the key 'a' again"):
        stored.parse_yaml("a: 1\na: 2\n", "x")


@pytest.mark.parametrize(
    "first, second",
    [("1", "0x1"), ("1", "1.0"), ("1", "true"), ("0.1", "0.10"), ("on", "yes"), ("1", "'1'"), ("0x1", "'1'")]
    + [("on", "'True'"), ("on", "'on'"), ("~", "null"), (".nan", ".NaN"), ("2001-1-1 1:00:00", "2001-01-01 01:00:00")],
)
def test_keys_that_yaml_takes_for_one_are_refused(first, second):
    with pytest.raises(DiffIMLError, match=r"x is not YAML in line 3, column 3: the key .* again"):
        stored.parse_yaml(f"rows:\n  {first}: {{seed: 1}}\n  {second}: {{seed: 2}}\n", "x")


def test_keys_that_differ_are_none_twice():
    text = "base: &b {1: a}\nrows: {<<: *b, 1: b, 2: c, 1.5: d, off: e}\n"
    assert stored.parse_yaml(text, "x")["rows"] == {1: "b", 2: "c", 1.5: "d", False: "e"}


def test_a_value_is_quoted_with_an_end():
    assert stored.shown([1, "a"]) == "[1, 'a']"
    assert len(stored.shown({f"a{i}": {f"b{j}": ["c" * 50] * 9 for j in range(9)} for i in range(9)})) == 203

import importlib
import re
from pathlib import Path

from diffiml_plugin.cli.config_file import package_index
from diffiml_plugin.cli.verbs import VERBS
from diffiml_plugin.datasets.catalogue import known_variant

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper_release_ours.md").read_text(encoding="utf-8")


def flags_of(verb: str) -> set[str]:
    from diffiml_plugin.cli.command_line import read_command_line

    module = importlib.import_module(f"diffiml_plugin.cli.{VERBS[verb][0]}")
    return set(read_command_line(f"benco {verb}", module, []).parser.flags())


def test_the_flags_that_switch_each_difference_exist():
    known = set().union(*(flags_of(verb) for verb in ("train", "complexity", "convert", "distill")))
    named = set(re.findall(r"--[a-z]\w+", PAGE))
    assert len(named) > 20 and named <= known, named - known


def test_configurations_files_and_datasets_that_it_names_exist():
    names = {entry.name for entry in package_index()}
    for row, others in re.findall(r"`(release/\w+)(#\w+`(?:, `#\w+`)*)?", PAGE):
        rows = re.findall(r"#\w+", others) or [""]
        assert {row + suffix for suffix in rows} <= names
    assert all((ROOT / file).is_file() for file in re.findall(r"`(tests/[\w/]+\.py)`", PAGE))
    assert all(known_variant(name) for name in re.findall(r"\b\w+_1024\b", PAGE))

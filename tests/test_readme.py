import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_ROW = re.compile(r"^\| ((?:Alg|Eq)\. [^|]+) \| (diffiml_plugin/\S+) \| (\w+) \|$", re.M)
ROWS = _ROW.findall((ROOT / "README.md").read_text())


def test_every_file_it_names_exists():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"(?:shell|benco_configs|diffiml_plugin)/[\w/]+\.\w+", text)
    named += ["shell/" + script for script in re.findall(r"(?<![\w/])\d\d_\w+\.sh", text)]
    assert len(named) > 10 and not [name for name in named if not (ROOT / name).is_file()]


def test_the_map_names_the_algorithms_and_equations():
    named = " ".join(row[0] for row in ROWS)
    assert all(item in named for item in ("Alg. 1", "Alg. 2", "Eq. 6", "Eq. 7", "15"))


@pytest.mark.parametrize("item, file, name", ROWS)
def test_each_place_exists_and_says_what_it_implements(item, file, name):
    tree = ast.parse((ROOT / file).read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    assert len(found) == 1, f"{file} has no function {name}"
    kind, numbers = item.split(":")[0].split(",")[0], re.findall(r"\d+", item.split(":")[0])
    assert kind.split()[0] in ast.get_docstring(found[0])
    assert any(number in ast.get_docstring(found[0]) for number in numbers)

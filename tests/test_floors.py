"""The order of the rooms: nothing imports upward, no circles, and only framework/ knows IMDLBenCo."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import diffiml_plugin

PACKAGE = Path(diffiml_plugin.__file__).parent
FLOORS = (  # from the ground up; a room imports only those before it
    "errors",
    "signals",
    "stored",
    "ledger",
    "folders",
    "files",
    "table",
    "drawing",
    "f1",
    "settings",
    "launchers",
    "launch",
    "method",
    "weights",
    "framework",
    "models",
    "data",
    "tampering",
    "datasets",
    "evaluation",
    "prediction",
    "api",
    "training",
    "reports",
    "codec",
    "demo",
    "cli",
)
FREE = ("hook.py", "__main__.py", "__init__.py")  # of the package itself: the doors, and they import late


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if str(path.relative_to(PACKAGE)) not in FREE)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """The full name of each imported module, wherever in the file, and its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno
            if node.module == "diffiml_plugin":
                yield from ((f"diffiml_plugin.{alias.name}", node.lineno) for alias in node.names)


def test_nothing_imports_upward():
    upward = []
    for path in sources():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name, line in imports(path):
            target = name.split(".")[1:2]
            if name.startswith("diffiml_plugin.") and target[0] in FLOORS:
                if room not in FLOORS or FLOORS.index(target[0]) > FLOORS.index(room):
                    upward.append(f"{path}:{line} imports {name}")
    assert not upward


def test_no_import_circles():
    graph = {}
    for path in sources():
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        graph[module] = {name for name, _ in imports(path)}
    TopologicalSorter({module: names & graph.keys() for module, names in graph.items()}).prepare()  # raises CycleError


def test_only_the_framework_room_imports_the_framework():
    assert not [
        f"{path}:{line}"
        for path in sources()
        for name, line in imports(path)
        if name.split(".")[0] == "IMDLBenCo" and path.relative_to(PACKAGE).parts[0] != "framework"
    ]


def test_the_method_knows_no_command_line():
    for path in (PACKAGE / "method").rglob("*.py"):
        assert "argparse" not in [name for name, _ in imports(path)], path
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "print"], path


def test_the_package_and_its_settings_import_nothing_heavy():
    code = (
        "import diffiml_plugin, diffiml_plugin.method.config, diffiml_plugin.cli.main, sys; "
        "print(sorted({'torch', 'numpy', 'IMDLBenCo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_load_on_first_use():
    for name in diffiml_plugin.__all__:
        assert getattr(diffiml_plugin, name) is not None

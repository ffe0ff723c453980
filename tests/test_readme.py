"""The README and its pages: commands run, flags exist, links lead somewhere, the map of the paper is right."""

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffiml_plugin.cli.main import main
from diffiml_plugin.cli.verbs import VERBS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_ROW = re.compile(r"^\| ((?:Alg|Eq)\. [^|]+) \| (diffiml_plugin/\S+) \| (\w+) \|$", re.M)
ROWS = _ROW.findall(README)


def indented_blocks(text: str) -> list[str]:
    """Blocks of code, without their indentation."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.M)
    return [re.sub(r"^    ", "", block, flags=re.M).strip("\n") for block in blocks]


def transcripts(block: str) -> list[tuple[list[str], list[str]]]:
    """The words of each `$ benco ...` or `$ python ...` of a block, and the lines that it prints, in order."""
    if not block.startswith("$ "):
        return []
    commands = (part.splitlines() for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.M)[1:])
    return [(shlex.split(command), shown) for command, *shown in commands]


def runs(block: str) -> bool:
    """Whether a block is to be run: a transcript, or Python."""
    return block.startswith(("$ ", "from diffiml_plugin import"))


RUNNABLE = [page for page in PAGES if any(map(runs, indented_blocks(page.read_text(encoding="utf-8"))))]


def without_figures(line: str) -> str:
    """A line whose figures, which follow from the weights, and column widths do not count."""
    return " ".join(re.sub(r"\d+(\.\d+)?", "0", line).split())


@pytest.fixture
def two_photographs(tmp_path, monkeypatch):
    """The working folder holds `photos`, those that scikit-learn carries."""
    monkeypatch.chdir(tmp_path)
    carried = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    Path("photos").mkdir()
    for photo in carried.glob("*.jpg"):
        shutil.copy(photo, "photos")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_commands_print_what_it_shows_and_its_python_runs(page, two_photographs, capfd, child_environment):
    """In the order of the page. A block that begins with `# NAME.py` is that file."""
    if page.stem == "export":
        pytest.importorskip("onnxruntime")
    text = page.read_text(encoding="utf-8")
    for block in indented_blocks(text):
        if file := re.match(r"# (\w+\.py)\n", block):
            Path(file[1]).write_text(block)
        elif block.startswith("from diffiml_plugin import"):
            exec(compile(block, page.name, "exec"), {})
        for (program, *words), shown in transcripts(block):
            if program == "benco":
                assert main(words) == 0
            else:
                subprocess.run([sys.executable, *words], env=child_environment, check=True)
            captured = capfd.readouterr()
            printed = {without_figures(line) for line in (captured.out + captured.err).splitlines()}
            assert not [line for line in shown if without_figures(line) not in printed]
    for file in re.findall(r"`(china_\w+\.\w+)`", text):
        assert Path("masks", file).is_file()


def test_the_readme_shows_what_its_first_commands_print():
    commands = [command for block in indented_blocks(README) for command in transcripts(block)]
    assert [words[1] for words, _ in commands] == ["tamper", "test", "predict", "configs"]
    assert all(shown for _, shown in commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_is_understood(page, tmp_path, monkeypatch, capsys):
    """Those that no test runs too: `--dry_run` reads every word and configuration, and does nothing."""
    monkeypatch.chdir(tmp_path)
    for variable in ("DATA_ROOT", "STUDY_DATA", "PHOTOS"):
        monkeypatch.setenv(variable, "elsewhere")
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for command in re.findall(r"^ {4}(?:(?:\$|.*\||srun.*) )?(benco .*?)(?: +# .*)?$", text, re.M):
        words = [word for word in shlex.split(command)[1:] if word != "..."]
        assert main([*words, "--dry_run"]) == 0, f"{command}: {capsys.readouterr().err}"


def test_it_names_every_verb():
    table = README.partition("## Verbs")[2].partition("\n##")[0]
    named = re.findall(r"`([a-z-]+)`", "".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|")))
    assert sorted(named) == sorted(VERBS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path, child_environment):
    """Datasets, flags and configurations have their pages, which nobody wrote."""
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=child_environment, check=True)
    for page in ("datasets/casiav1", "flags/codec-report", "configurations", "python", "RESULTS", "howto/gpus"):
        assert (tmp_path / page / "index.html").is_file()
    assert "$ benco" not in (tmp_path / "first_steps" / "index.html").read_text()  # commands can be copied
    assert 'href="casiav1/"' in (tmp_path / "datasets" / "index.html").read_text()
    flags = (tmp_path / "flags" / "train" / "index.html").read_text()
    assert "--prior_rate" in flags and "zₜ = √ᾱₜ (z₀ + λ ξ)" in flags


def test_each_equation_that_a_flag_names_is_shown():
    path = ROOT / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    spec.loader.exec_module(generate := importlib.util.module_from_spec(spec))
    for verb in VERBS:
        for row in re.findall(r"^\| `--.*", generate._flags(verb), re.M):
            assert set(re.findall(r"(?:Eq|Alg)\. \d+(?:-\d+)?", row)) <= set(generate.EQUATIONS), row


def test_every_page_is_reached_from_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#]+\.md)", index)}
    assert not [page for page in ROOT.glob("docs/**/*.md") if page.name != "README.md" and page.resolve() not in linked]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_it_names_exists(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/])(?:shell|benco_configs|diffiml_plugin|tests)/[\w/]+\.\w+", text)
    named += ["shell/" + script for script in re.findall(r"(?<![\w/])\d\d_\w+\.sh", text)]
    assert not [name for name in named if not (ROOT / name).is_file()]


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

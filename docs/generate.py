"""MkDocs hook: the pages that follow from the code, and those of the repository's top. Nothing of it is committed.

One page for each dataset of the catalogue, one for each verb with all its flags, one of the configurations.
"""

import argparse
import importlib
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from diffiml_plugin.cli.command_line import read_command_line
from diffiml_plugin.cli.config_file import package_index
from diffiml_plugin.cli.verbs import VERBS
from diffiml_plugin.datasets.catalogue import CATALOGUE, FRAMEWORK_LAYOUTS, DatasetEntry

ROOT = Path(__file__).parents[1]
TOP = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "MODEL_CARD.md", "RESULTS.md")
EQUATIONS = {  # as help texts name them
    "Eq. 3-5": "s = (√ᾱₜ ẑ₀ − zₜ) / (1 − ᾱₜ), the score of an ancestral step",
    "Eq. 6": "L = |D(E(y)) − y|₁ + λ_lat · |E(y) − z_T|²",
    "Eq. 7": "e = dilate(Canny(y))",
    "Eq. 10": "L = α · |ẑ_mask − z_mask|² + (1 − α) · |ẑ_edge − z_edge|²",
    "Eq. 15": "zₜ = √ᾱₜ (z₀ + λ ξ) + √(1 − ᾱₜ) ε",
    "Alg. 2": "mask = D(mean of z⁽¹⁾ ... z⁽ᴺ⁾), each sampled in S steps from noise of its own",
}
_TRANSCRIPT = re.compile(r"(?<=\n\n)    \$ .*\n(?:    .*\n)*")
_ADDRESS = re.compile(r"\b(?:[\w-]+\.)+[a-z]{2,4}\b(?:/[\w./~-]*[\w/~-])?")
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)]*)?\)")


def on_config(config: Any) -> Any:
    """Puts the pages of datasets and verbs where mkdocs.yml names their folders."""
    pages = {
        "datasets": {entry.name: _slug(entry.name) for entry in CATALOGUE},
        "flags": {f"benco {v}": v for v in VERBS},
    }

    def filled(entry: Any) -> Any:
        if isinstance(entry, list):
            return [filled(part) for part in entry]
        if isinstance(entry, dict):
            return {title: filled(part) for title, part in entry.items()}
        if entry not in pages:
            return entry
        return [f"{entry}/README.md", *({title: f"{entry}/{slug}.md"} for title, slug in pages[entry].items())]

    config.nav = filled(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages."""
    from mkdocs.structure.files import File

    generated = {"datasets/README.md": _datasets(), "flags/README.md": _verbs(), "configurations.md": _configurations()}
    generated |= {f"datasets/{_slug(entry.name)}.md": _dataset(entry) for entry in CATALOGUE}
    generated |= {f"flags/{verb}.md": _flags(verb) for verb in VERBS}
    generated |= {name: (ROOT / name).read_text(encoding="utf-8") for name in TOP}
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    for picture in ROOT.glob("*.[jp][pn]g"):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links between pages of the repository lead to pages of the site; those to other files of it become plain text."""
    path = page.file.src_uri
    folder = "" if path in TOP else posixpath.join("docs", posixpath.dirname(path))

    def linked(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        file = posixpath.normpath(posixpath.join(folder, target))  # of the repository
        inside = file.removeprefix("docs/")  # of the site
        if "://" in target or not (ROOT / file).exists():
            return match[0]
        if file == "README.md" or files.get_file_from_path(inside) is None:
            return text[1:-1]
        return f"{text}({posixpath.relpath(inside, posixpath.dirname(path) or '.')}{anchor})"

    return _TRANSCRIPT.sub(_fenced, _LINK.sub(linked, markdown))


def _fenced(match: re.Match[str]) -> str:
    """A transcript as blocks of commands, which can be copied, and of what they print."""
    lines = re.sub("^    ", "", match[0], flags=re.M).rstrip("\n").splitlines()
    blocks: list[tuple[str, list[str]]] = []
    going_on = False  # a command's second line
    for line in lines:
        kind = "sh" if going_on or line.startswith("$ ") else "text"
        going_on = kind == "sh" and line.endswith("\\")
        if not blocks or blocks[-1][0] != kind:
            blocks.append((kind, []))
        blocks[-1][1].append(line.removeprefix("$ "))
    return "\n".join(f"```{kind}\n" + "\n".join(part) + "\n```\n" for kind, part in blocks)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())


def _datasets() -> str:
    rows = [
        [f"[{e.name}]({_slug(e.name)}.md)", e.authentic, e.tampered, "yes" if e.generative else "", e.mvss, e.catnet]
        for e in CATALOGUE
    ]
    head = ["dataset", "authentic", "tampered", "generative", "MVSS", "CAT-Net"]
    return f"""# Datasets

The eleven of the paper's Table 1, and {len(CATALOGUE) - 11} more of real forgeries. None is downloaded for you: each
page says whom to ask. MVSS and CAT-Net are the two protocols, and a set's part in them.

{_table(head, rows)}

## Formats

`--data_path` and `--test_data_path` take any of these:

{_bullets(FRAMEWORK_LAYOUTS)}

How to bring your own: [Your own data](../howto/data.md).
"""


def _dataset(entry: DatasetEntry) -> str:
    facts = {
        "what it holds": entry.what,
        "authentic images": entry.authentic,
        "tampered images": entry.tampered,
        "made by a generative model": "yes" if entry.generative else "no",
        "MVSS protocol": entry.mvss,
        "CAT-Net protocol": entry.catnet,
        "licence": entry.licence,
        "where to ask": _ADDRESS.sub(r"[\g<0>](https://\g<0>)", entry.source),
        "the download": entry.layout,
    }
    if entry.also:
        facts["other names"] = ", ".join(entry.also)
    if entry.kinds:
        facts["kinds, by file name"] = ", ".join(f"`{start}`: {kind}" for start, kind in entry.kinds)
    table = _table(["", entry.name], list(facts.items())).replace("*", r"\*")
    return f"""# {entry.name}

{table}

## Use it

Unpack the download as it is, in a folder `DATA_ROOT`. Then:

    benco datasets prepare {entry.name} --root "$DATA_ROOT"
    benco datasets check "$DATA_ROOT/{entry.name}.json"

`prepare` writes the list `{entry.name}.json` and leaves the images alone. `check` names every file that would falsify a
score. The list is what `--data_path` and `--test_data_path` take.
"""


def _verbs() -> str:
    rows = [[f"[{verb}]({verb}.md)", text] for verb, (_, text) in VERBS.items()]
    return f"""# Flags

Every verb of `benco`, and each of its flags, as the parser knows them. `benco VERB --help` prints the same.

{_table(["verb", "what it does"], rows)}

Any flag can stand in a YAML file, `--config FILE`. A flag on the command line wins over it, and `--dry_run` prints what
would run and where each value comes from.
"""


def _flags(verb: str) -> str:
    module = importlib.import_module(f"diffiml_plugin.cli.{VERBS[verb][0]}")
    parser = read_command_line(f"benco {verb}", module, []).parser
    parts = [f"# benco {verb}", (module.__doc__ or "").strip()]
    for group in parser._action_groups:
        rows = [
            _row(action)
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and action.dest != "help"
        ]
        if rows:
            title = {"positional arguments": "what it takes", "options": "flags"}.get(group.title, group.title)
            parts += [f"## {title[0].upper()}{title[1:]}", _table(["flag", "default", "what it sets"], rows)]
    return "\n\n".join(parts) + "\n"


def _row(action: argparse.Action) -> list[str]:
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
    text = (action.help or "").replace("%%", "%")
    if action.choices:
        text += f". One of {', '.join(f'`{choice}`' for choice in action.choices)}"
    for equation, formula in EQUATIONS.items():
        if re.search(rf"{re.escape(equation)}\b", text):
            text += f"<br>{equation}: *{formula}*"
    default = "" if action.default in (None, "", False, argparse.SUPPRESS) else f"`{action.default}`"
    return [names, default, _plain(text)]


def _plain(text: str) -> str:
    """What Markdown would read as a mark stays as it is."""
    return text.replace("[[", r"\[\[").replace("<", "&lt;").replace("&lt;br>", "<br>")


def _configurations() -> str:
    rows = [[f"`{entry.name}`", f"`{entry.verb}`", entry.about, entry.cost] for entry in package_index()]
    return f"""# Configurations

Those that travel with the package: `--config NAME`. `benco VERB --config NAME --dry_run` prints what one says. A cost
stands where it was measured.

{_table(["name", "verb", "what it is", "cost"], rows)}
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """As `table.Table.markdown`, but for cells that are Markdown themselves."""
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in rows]
    return tabulate(cells, head, "pipe")


def _bullets(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {line}" for line in lines)

"""constraints.txt reproduces the tested set: it pins what pyproject.toml requires, in the versions allowed there."""

import re
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib")  # of Python 3.11, for which the constraints are
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def test_what_is_required_is_pinned_in_a_version_that_is_allowed():
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert requirement.specifier.contains(PINNED[normal(requirement.name)]), requirement


def test_what_extras_require_is_pinned_in_a_version_that_is_allowed():
    for requirement in (Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra):
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(PINNED[normal(requirement.name)]), requirement


def test_pinned_versions_go_together():
    """As the packages say themselves that are installed here in the pinned version."""
    for package in distributions():
        if package.version != PINNED.get(normal(package.metadata["Name"])):
            continue
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                version = PINNED.get(normal(requirement.name), "")
                assert not version or requirement.specifier.contains(version), f"{package.name}: {requirement}"

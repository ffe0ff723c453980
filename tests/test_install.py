"""The package in throw-away environments, by each installer; the dependencies are borrowed from this environment."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
SOURCES = (
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "diffiml_plugin.pth",
    "diffiml_plugin",
    "benco_configs",
)
UV = shutil.which("uv", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
INSTALLERS = ("pip install .", "pip install -e .", "uv pip install .")

pytestmark = pytest.mark.slow


class Environment:
    """A virtual environment with nothing of its own installed, that sees the packages of this one."""

    def __init__(self, folder: Path):
        venv.create(folder, with_pip=False)
        self.folder = folder
        (self.site_packages,) = folder.glob("lib/python*/site-packages")
        (self.site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "DIFFIML_HOOK", "VIRTUAL_ENV")
        }

    def run(self, *words: str, cwd: Path | None = None, **environ: str) -> str:
        command = [str(self.folder / "bin" / words[0]), *words[1:]]
        return self._run(command, cwd or self.folder, environ)

    def install(self, installer: str, *what: str, cwd: Path) -> None:
        python, options = str(self.folder / "bin" / "python"), ["--no-deps", "--no-build-isolation", "--quiet", *what]
        if installer.startswith("uv"):
            self._run([UV, "pip", "install", "--offline", "--python", python, *options], cwd)
        else:
            self._run([sys.executable, "-m", "pip", "--python", python, "install", "--ignore-installed", *options], cwd)

    def uninstall(self, installer: str, name: str) -> None:
        python = str(self.folder / "bin" / "python")
        uv = [UV, "pip", "uninstall", "--python", python]
        pip = [sys.executable, "-m", "pip", "--python", python, "uninstall", "--yes"]
        self._run([*(uv if installer.startswith("uv") else pip), name], self.folder)

    def leftovers(self) -> list[str]:
        return [str(path) for path in self.folder.rglob("*") if "diffiml" in path.name.lower()]

    def _run(self, command: list[str], cwd: Path, environ: dict[str, str] | None = None) -> str:
        done = subprocess.run(command, cwd=cwd, env=self.environ | (environ or {}), capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def framework(tmp_path_factory) -> str:
    """The installed framework, packed into a wheel again: no index is needed."""
    distribution = importlib.metadata.distribution("imdlbenco")
    wheel = tmp_path_factory.mktemp("wheels") / f"imdlbenco-{distribution.version}-py3-none-any.whl"
    files = [
        file
        for file in distribution.files
        if file.parts[0] != ".." and file.suffix != ".pyc" and file.name not in ("RECORD", "INSTALLER", "REQUESTED")
    ]
    (info,) = {file.parts[0] for file in files if file.name == "METADATA"}
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in files:
            archive.write(file.locate(), str(file))
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in files) + f"{info}/RECORD,,\n")
    return str(wheel)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy to build from, so that the real one stays clean."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in SOURCES:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    (copy / "benco_configs" / "packaged.yaml").write_text("encoder: resnet50\n")
    return copy


@pytest.mark.parametrize("installer", INSTALLERS)
def test_the_command_comes_stays_and_goes(tmp_path, framework, checkout, installer):
    if installer.startswith("uv") and UV is None:
        pytest.skip("uv is not installed")
    environment = Environment(tmp_path / "environment")
    environment.install(installer, framework, cwd=tmp_path)
    environment.install(installer, *installer.partition("install ")[2].split(), cwd=checkout)

    ours = environment.run("benco", "--help")
    assert ours.startswith("usage: benco VERB")
    assert "--data_path" in environment.run("benco", "train", "--help")
    assert environment.run("diffiml", "--help") == ours.replace("benco", "diffiml")
    assert "encoder: resnet50" in environment.run("benco", "train", "--config", "benco_configs/packaged", "--dry_run")
    environment.run("python", "-c", "from diffiml_plugin.weights.lightvae import load_lightvae; load_lightvae()")
    assert environment.run("python", "-W", "error", "-c", "pass") == ""
    script = "from IMDLBenCo.registry import MODELS; print('known:', MODELS.has('DiffIML'))"
    assert "known: True" in environment.run("python", "-c", script)
    assert "known: False" in environment.run("python", "-c", script, DIFFIML_HOOK="0")

    environment.install(installer, "--reinstall" if "uv" in installer else "--force-reinstall", framework, cwd=tmp_path)
    assert environment.run("benco", "--help") == ours

    environment.uninstall(installer, "diffiml-plugin")
    assert environment.leftovers() == []
    assert "Command line interface for IMDLBenCo" in environment.run("benco", "--help")


def test_the_frameworks_own_verbs_are_unchanged(tmp_path, framework, checkout):
    environment = Environment(tmp_path / "environment")
    environment.install("pip", framework, cwd=tmp_path)
    environment.install("pip", ".", cwd=checkout)
    written, printed = {}, {}
    for hook in ("0", "1"):
        folder = tmp_path / f"hook {hook}"
        folder.mkdir()
        printed[hook] = environment.run("benco", "init", "base", cwd=folder, DIFFIML_HOOK=hook)
        printed[hook] += environment.run("benco", "env", cwd=folder, DIFFIML_HOOK=hook)
        written[hook] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert written["0"] == written["1"] and "train.py" in written["0"]
    assert printed["1"].replace("hook 1", "hook 0") == printed["0"]

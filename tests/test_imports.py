import gc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffiml_plugin.imports import quick_imports


@pytest.fixture
def thawed():
    yield
    gc.unfreeze()


def test_no_garbage_is_collected_inside_and_none_of_it_looked_through_afterwards(thawed):
    before = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
        made = [[] for _ in range(10_000)]
    assert gc.isenabled() and gc.get_freeze_count() - before > len(made)


def test_garbage_is_collected_again_after_an_import_that_failed(thawed):
    with pytest.raises(ImportError), quick_imports():
        raise ImportError("no such module")
    assert gc.isenabled()


ALONE = "from diffiml_plugin.imports import keep_away; keep_away(); "
STARTED = "import diffiml_plugin.hook; "  # by a command of ours, whose word for it the environment has


@pytest.fixture
def environment(child_environment):
    """Without the libraries' path, which OpenCV sets where it is imported, as it may be in this process."""
    return {name: value for name, value in child_environment.items() if name != "LD_LIBRARY_PATH"}


def _run(code: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("libraries", [None, "/opt/lib"])
@pytest.mark.parametrize("first", [ALONE, STARTED])
def test_settings_of_the_current_folder_are_nobodys(tmp_path, environment, first, libraries):
    (tmp_path / "matplotlibrc").write_text("figure.dpi: 33")
    environment |= {"DIFFIML_KEPT_AWAY": "1", "MATPLOTLIBRC": ""}  # an empty one counts as none
    environment |= {"LD_LIBRARY_PATH": libraries} if libraries else {}
    show = "import os, cv2, matplotlib; print(matplotlib.rcParams['figure.dpi'], os.environ.get('LD_LIBRARY_PATH'))"
    assert _run(f"{first}{show}; print(os.getcwd())", tmp_path, environment) == f"100.0 {libraries}\n{tmp_path}\n"


@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler makes a library")
@pytest.mark.parametrize(
    "import_torch",
    [
        f"{STARTED}import torch",
        "import sys; sys.argv[1:] = ['predict', 'gone.jpg', '--device', 'cpu']; "
        "from diffiml_plugin.cli.main import main; main(); import torch",
    ],
)
def test_a_library_of_the_current_folder_is_not_loaded(tmp_path, child_environment, import_torch):
    (tmp_path / "library.c").write_text('#include <stdio.h>\n__attribute__((constructor)) void f() { puts("loaded"); }')
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "library.c"], check=True)
    if "loaded" not in _run("import torch", tmp_path, child_environment):
        pytest.skip("this torch looks for no such library")
    environment = child_environment | {"DIFFIML_KEPT_AWAY": "1"}
    assert "loaded" not in _run(import_torch, tmp_path, environment)


def test_where_the_current_folder_is_gone_imports_work(tmp_path, environment):
    code = f"import os; os.rmdir(os.getcwd()); {ALONE}import cv2; print(os.environ.get('LD_LIBRARY_PATH'))"
    (tmp_path / "gone").mkdir()
    assert _run(code, tmp_path / "gone", environment) == "None\n"


def test_a_folder_that_may_not_be_entered_is_left_as_it_is(tmp_path, environment):
    refuse = "os.open = lambda *_: (_ for _ in ()).throw(PermissionError(13, 'Permission denied', '.')); "
    assert _run(f"import os; {ALONE}{refuse}import cv2; print(os.getcwd())", tmp_path, environment) == f"{tmp_path}\n"


def test_a_users_own_folder_for_matplotlib_is_the_one_meant(tmp_path, environment):
    environment |= {"MPLCONFIGDIR": "own", "MATPLOTLIBRC": "own/settings"}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "settings").write_text("figure.dpi: 33")
    show = "import matplotlib; print(matplotlib.get_configdir(), matplotlib.rcParams['figure.dpi'])"
    assert _run(ALONE + show, tmp_path, environment) == f"{tmp_path}/own 33.0\n"

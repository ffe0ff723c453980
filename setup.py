"""The two things a wheel holds beside the packages: the start-up hook and the config files."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithExtras(build_py):
    """Adds `diffiml_plugin.pth`, which Python reads at start-up, at the wheel's root, and `benco_configs/`."""

    def run(self):
        super().run()
        if self.editable_mode:  # the configs are found in the checkout
            wheel_root = Path(self.get_finalized_command("install").install_lib)
        else:
            wheel_root = Path(self.build_lib)
            shutil.copytree(ROOT / "benco_configs", wheel_root / "diffiml_plugin" / "benco_configs", dirs_exist_ok=True)
        shutil.copy(ROOT / "diffiml_plugin.pth", wheel_root)


setup(cmdclass={"build_py": BuildWithExtras})

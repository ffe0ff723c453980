"""Metadata, and the two things a wheel holds beside the packages: the start-up hook and the config files."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
INIT = (ROOT / "diffiml_plugin" / "__init__.py").read_text(encoding="utf-8")


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


setup(
    name="diffiml-plugin",
    version=re.search(r'__version__ = "(.+)"', INIT)[1],
    description="DiffIML, image manipulation localization by conditional latent diffusion, for IMDL-BenCo",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["diffiml_plugin*"]),
    package_dir={"": "."},  # an editable install is then one line in a .pth file
    package_data={
        "diffiml_plugin": ["py.typed"],
        "diffiml_plugin.evaluation": ["published.json"],
        "diffiml_plugin.reports": ["page.html"],
        "diffiml_plugin.tampering": ["world.yaml"],
        "diffiml_plugin.weights": ["*.safetensors"],
    },
    cmdclass={"build_py": BuildWithExtras},
    entry_points={"console_scripts": ["diffiml = diffiml_plugin.cli.main:main"]},
    install_requires=[
        "accelerate>=1.0",
        "albumentations>=1.3.0,<1.4",
        "diffusers>=0.30",
        "fvcore>=0.1.5",
        "huggingface_hub>=0.25",
        "imdlbenco>=0.1.45",
        "jinja2>=3.1",
        "matplotlib>=3.7",
        "numpy>=1.23,<2",
        "opencv-python-headless>=4.7,<4.12",  # opencv-python without windows: albumentations needs this one too
        "pillow>=9.5",
        "PyYAML>=6.0",
        "requests>=2.28",
        "safetensors>=0.4",
        "scikit-image>=0.21",
        "scikit-learn>=1.3",
        "tabulate>=0.9",
        "tensorboard>=2.13",
        "timm>=1.0",
        "torch>=2.5",
        "torchvision>=0.19",
        "tqdm>=4.65",
    ],
    extras_require={
        "dev": ["pytest>=8", "ruff>=0.8", "setuptools>=77", "transformers>=4.45", "uv>=0.4"],
    },
)

"""Installs `trainers/` as the import package `caspl`, with the Dassl stand-in inside it for where there is no Dassl."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
STAND_IN = [f"caspl.third_party.{name}" for name in find_packages(str(HERE / "third_party"))]

setup(
    name="caspl",
    version="0.1.0",
    description="Cascade Prompt Learning for CLIP, as a plug-in for the Dassl toolbox family",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    install_requires=["torch>=2.3", "torchvision", "yacs", "safetensors", "numpy", "Pillow", "tqdm", "ftfy", "regex"],
    package_dir={"caspl": "trainers", "caspl.third_party": "third_party"},
    packages=["caspl", "caspl.engine", "caspl.hosts", *STAND_IN],
    package_data={"caspl.engine": ["weights/*.pt"], "caspl.hosts": ["templates.txt"]},
)

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
    # scripts/compatibility.sh tests both ends of PyTorch: 2.3.1 (up to Python 3.12), and what requirements.txt pins.
    python_requires=">=3.10",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)],
    install_requires=[
        "torch>=2.3.1,<3",
        "torchvision",
        "yacs",
        "safetensors",
        "numpy",
        "Pillow",
        "tqdm",
        "ftfy",
        "regex",
    ],
    extras_require={
        "clip": ["openai-clip==1.0.1", "setuptools<81"],  # a toolbox brings a clip of its own
        "open_clip": ["open_clip_torch>=3.0"],  # teachers beyond OpenAI's
    },
    package_dir={"caspl": "trainers", "caspl.third_party": "third_party"},
    packages=["caspl", "caspl.engine", "caspl.hosts", *STAND_IN],
    package_data={"caspl.engine": ["weights/*.pt"], "caspl.hosts": ["templates.txt"]},
)

"""One reader file and one YAML file add a dataset; the package also works under another name."""

import shutil
import subprocess
import sys

import documents
import pytest
from conftest import ROOT
from datasets_helpers import touch

pytestmark = pytest.mark.slow

FILES = ("datasets/readers/planets.py", "configs/datasets/planets.yaml")
CODE = "import {plugin}\nimport {package}, {package}.check\nfrom dassl.data.datasets import DATASET_REGISTRY as R\n"
COPIED = ("datasets", "trainers", "configs", "third_party", "scripts", "train.py")


def python(folder, *arguments):
    """Run Python in a folder; return the finished process."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with the new dataset, and its images in data/."""
    root = tmp_path_factory.mktemp("checkout")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(
            ROOT / name,
            root / name,
            **({"ignore": shutil.ignore_patterns("__pycache__")} if copy is shutil.copytree else {}),
        )
    for path in FILES:
        (root / path).write_text(documents.example("extend.md", path))
    touch(root / "data/planets/images", *(f"{name}/{n}.png" for name in ("mars", "venus") for n in range(10)))
    return root


def test_new_dataset_is_checked(checkout):
    done = python(checkout, "scripts/data.py", "check", "planets", "--data", "data")
    assert done.returncode == 1, done.stderr
    for text in (
        "planets: INCOMPLETE",
        "split_zhou_Planets.json is missing",
        "20 of 20 images decoded",
        "https://planets.example",
    ):
        assert text in done.stdout
    assert "planets" in python(checkout, "scripts/data.py", "check", "all", "--data", "data", "--quick").stdout


def test_new_dataset_is_known_to_protocols(checkout):
    code = "from trainers.experiments.places import dataset_files; print(*dataset_files())"
    assert "planets" in python(checkout, "-c", code).stdout.split()
    done = python(checkout, "-m", "trainers", "base2new", "planets", "one", "--data", "data")
    assert done.returncode == 2 and "planets" not in done.stderr.splitlines()[-1], "only the seed is wrong"


def test_package_works_inside_caspl(checkout):
    inside = checkout.parent / "installed"
    shutil.copytree(checkout / "trainers", inside / "caspl")
    shutil.copytree(checkout / "datasets", inside / "caspl/datasets")
    shutil.copytree(checkout / "third_party", inside / "caspl/third_party")
    shutil.copytree(checkout / "configs", inside / "caspl/configs")
    code = CODE.format(plugin="caspl", package="caspl.datasets")
    done = python(inside, "-c", f"{code}print(R.get('Planets').__module__)")
    assert done.stdout.split()[-1:] == ["caspl.datasets.readers.planets"], done.stderr

"""Downloads by torchvision, which is mocked."""

import inspect
import pathlib
from types import SimpleNamespace

import pytest
import torchvision.datasets
from datasets_helpers import touch
from downloads import DOWNLOADS, KINDS, files, offline, run

from datasets import fetch, hub

# {path that torchvision's class creates below its root: path in the family's layout}
LEFT = {
    "Caltech101": {"caltech101/101_ObjectCategories/face/1.jpg": "caltech-101/101_ObjectCategories/face/1.jpg"},
    "OxfordPets": {
        "oxford-iiit-pet/images/a_1.jpg": "oxford_pets/images/a_1.jpg",
        "oxford-iiit-pet/annotations/trainval.txt": "oxford_pets/annotations/trainval.txt",
    },
    "OxfordFlowers": {
        f"flowers-102/{name}": f"oxford_flowers/{name}" for name in ("jpg/image_00001.jpg", "imagelabels.mat")
    },
    "Food101": {"food-101/images/pie/1.jpg": "food-101/images/pie/1.jpg"},
    "FGVCAircraft": {
        f"fgvc-aircraft-2013b/data/{name}": f"fgvc_aircraft/{name}"
        for name in ("images/1.jpg", "variants.txt", *(f"images_variant_{p}.txt" for p in ("train", "val", "test")))
    },
    "DescribableTextures": {"dtd/dtd/images/banded/1.jpg": "dtd/images/banded/1.jpg"},
    "EuroSAT": {"eurosat/2750/Forest/1.jpg": "eurosat/2750/Forest/1.jpg"},
}


@pytest.fixture
def torchvision_creates(monkeypatch):
    """Return a function that mocks all downloads: they create files, or raise an error. It returns the calls."""

    def mock(files, error=None):
        calls = []

        def download(root, download):
            calls.append(root)
            touch(pathlib.Path(root), *files, "archive.zip")
            if error:
                raise error

        mocked = SimpleNamespace(**{DOWNLOADS[name].torchvision: download for name in LEFT})
        monkeypatch.setattr(fetch.torchvision, "datasets", mocked)
        monkeypatch.setattr(hub, "download", offline)
        return calls

    return mock


@pytest.mark.parametrize("name", LEFT)
def test_torchvision_download_is_moved_into_layout(name, tmp_path, torchvision_creates):
    torchvision_creates(LEFT[name])
    moved = fetch.fetch(KINDS[name], tmp_path)
    assert files(tmp_path) == set(LEFT[name].values()) and all(path.exists() for path in moved)


def test_torchvision_keeps_existing_files(tmp_path, torchvision_creates):
    torchvision_creates(LEFT["OxfordPets"])
    touch(tmp_path / "oxford_pets/images", "mine.jpg")
    assert fetch.fetch(KINDS["OxfordPets"], tmp_path) == [tmp_path / "oxford_pets/annotations"]
    assert [path.name for path in (tmp_path / "oxford_pets/images").iterdir()] == ["mine.jpg"]


@pytest.mark.parametrize(
    "error", [RuntimeError("File not found or corrupted"), OSError("no route"), ValueError("dead\nlink")]
)
def test_failed_torchvision_download_prints_links_and_resumes(error, tmp_path, torchvision_creates, capsys):
    torchvision_creates([], error)
    assert run("fetch", "dtd", "--data", tmp_path) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert " ".join(str(error).split()) in message and KINDS["DescribableTextures"].facts.link in message
    assert (tmp_path / ".dtd-download/archive.zip").exists() and not (tmp_path / "dtd").exists()
    torchvision_creates([f"dtd/dtd/images/banded/{number}.jpg" for number in range(5)])
    assert run("fetch", "dtd", "--data", tmp_path) == 1, "the split file is not in the archive"
    out = capsys.readouterr().out
    assert f"{tmp_path / 'dtd/images'}: fetched" in out and "split_zhou_DescribableTextures.json is missing" in out
    assert {path.split("/")[0] for path in files(tmp_path)} == {"dtd"}


def test_torchvision_download_with_another_layout_is_rejected(tmp_path, torchvision_creates):
    torchvision_creates(["somewhere/else.jpg"])
    with pytest.raises(OSError, match="no dtd/dtd/images in"):
        fetch.fetch(KINDS["DescribableTextures"], tmp_path)
    assert (tmp_path / ".dtd-download/somewhere/else.jpg").exists()


@pytest.mark.parametrize("name", LEFT)
def test_torchvision_has_the_classes(name):
    parameters = inspect.signature(getattr(torchvision.datasets, DOWNLOADS[name].torchvision)).parameters
    assert {"root", "download"} <= set(parameters)
    assert set(LEFT) == set(DOWNLOADS)

"""Downloads: the real Hugging Face client against a local server, torchvision mocked."""

import hashlib
import io
import json
import sys
import zipfile
from types import SimpleNamespace

import pytest
from datasets_helpers import golden_folder
from downloads import DOWNLOADS, KINDS, files, offline, run
from mirror import publish, served, zipped
from test_datasets import FAMILY

from datasets import fetch, hub


@pytest.fixture
def server(monkeypatch):
    """A running local server that the real client uses."""
    with served() as (state, address):
        monkeypatch.setattr(hub, "ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield state


@pytest.fixture
def no_torchvision(monkeypatch):
    """Make all downloads of torchvision fail."""

    def fail(root, download):
        raise RuntimeError("no network")

    mocked = SimpleNamespace(**{download.torchvision: fail for download in DOWNLOADS.values()})
    monkeypatch.setattr(fetch.torchvision, "datasets", mocked)


@pytest.fixture(autouse=True)
def no_known_hashes(monkeypatch):
    """The mini archives do not have the hashes of the published ones."""
    for kind in KINDS.values():
        monkeypatch.setattr(kind, "facts", kind.facts._replace(sha256=""))


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "ImageNet"])
def test_hub_has_every_dataset_but_imagenet(name, tmp_path, server):
    original, data = publish(server, tmp_path, name)
    added = fetch.fetch(KINDS[name], data)
    assert files(data) == files(original) and all(path.exists() for path in added)
    assert {path.name for path in data.iterdir()} == {
        KINDS[name].dataset_dir,
        f".{KINDS[name].dataset_dir}-source.json",
    }
    requests = len(server.requests)
    assert fetch.fetch(KINDS[name], data) == []
    assert len(server.requests) == requests or name == "StanfordCars"  # the mini dataset has no cars_test


@pytest.mark.parametrize("prefix", ["", "data/", "other/oxford_pets/", "a/b/Oxford-Pets/"])
def test_archive_with_other_folders_is_moved_into_layout(tmp_path, server, prefix, no_torchvision):
    original, data = publish(server, tmp_path, "OxfordPets", prefix)
    fetch.fetch(KINDS["OxfordPets"], data)
    assert files(data) == files(original)


@pytest.mark.parametrize("inner", ["images", "."])
def test_archives_in_an_archive_are_unpacked(tmp_path, server, no_torchvision, inner):
    original, data = publish(server, tmp_path, "OxfordPets", "")
    folder = original / "oxford_pets"
    content = zipped(folder / inner, "images/" if inner == "images" else "oxford_pets/")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("oxford_pets/images.zip" if inner == "images" else "oxford_pets.zip", content)
        if inner == "images":
            archive.write(folder / "split_zhou_OxfordPets.json", "oxford_pets/split_zhou_OxfordPets.json")
    server.content["oxford_pets.zip"] = buffer.getvalue()
    fetch.fetch(KINDS["OxfordPets"], data)
    missing = files(original) - files(data)
    assert all(path.startswith("oxford_pets/annotations/") for path in missing) and not list(data.rglob("*.zip"))


def test_existing_files_are_kept_and_missing_ones_added(tmp_path, server):
    original, data = publish(server, tmp_path, "OxfordPets")
    name = sorted(path.name for path in (original / "oxford_pets/images").iterdir())[0]
    (data / "oxford_pets/images").mkdir(parents=True)
    (data / "oxford_pets/images" / name).write_bytes(b"mine")
    added = fetch.fetch(KINDS["OxfordPets"], data)
    assert {path.name for path in added} >= {"images", "split_zhou_OxfordPets.json"} and files(data) == files(original)
    assert (data / "oxford_pets/images" / name).read_bytes() == b"mine"
    (data / "oxford_pets/images" / name).unlink()
    assert fetch.fetch(KINDS["OxfordPets"], data) == [data / "oxford_pets/images"]
    assert fetch.fetch(KINDS["OxfordPets"], data) == [] and files(data) == files(original)


def test_missing_split_file_without_a_source_is_an_error(tmp_path, monkeypatch):
    golden_folder(tmp_path, "oxford_pets")
    (tmp_path / "oxford_pets/split_zhou_OxfordPets.json").unlink()
    monkeypatch.setattr(hub, "download", offline)
    with pytest.raises(OSError, match=r"Hugging Face: offline.*split_zhou_OxfordPets"):
        fetch.fetch(KINDS["OxfordPets"], tmp_path)


@pytest.mark.parametrize("name", ["image_folder", "csv"])
def test_own_images_are_not_fetched(tmp_path, capsys, name):
    assert run("fetch", name, "--data", tmp_path) == 2
    assert "nothing to download; its images are your own" in capsys.readouterr().err


def test_interrupted_download_resumes(tmp_path, server, no_torchvision, monkeypatch):
    original, data = publish(server, tmp_path, "OxfordPets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 2)
    size = len(server.content["oxford_pets.zip"])
    server.limit = size // 2
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 512)
    with pytest.raises(OSError, match="Hugging Face") as error:
        fetch.fetch(KINDS["OxfordPets"], data)
    assert "\n" not in str(error.value) and KINDS["OxfordPets"].facts.link in str(error.value)
    assert not (data / "oxford_pets").exists()
    server.limit = None
    server.requests.clear()
    fetch.fetch(KINDS["OxfordPets"], data)
    assert files(data) == files(original)
    starts = [header for method, path, header in server.requests if method == "GET" and path.endswith(".zip")]
    assert starts and all(start and start != "bytes=0-" for start in starts), "the second call must resume"


@pytest.mark.parametrize("origin", ["known", "reported", "recorded"])
def test_wrong_hash_is_rejected(tmp_path, server, no_torchvision, monkeypatch, origin):
    _, data = publish(server, tmp_path, "OxfordPets")
    kind = KINDS["OxfordPets"]
    if origin == "known":
        monkeypatch.setattr(kind, "facts", kind.facts._replace(sha256="0" * 64))
    elif origin == "reported":
        server.hashes["oxford_pets.zip"] = "0" * 64
    else:
        record = {"revision": hub.REVISION, "sha256": "0" * 64}
        (data / ".oxford_pets-source.json").write_text(json.dumps(record))
    with pytest.raises(OSError, match=rf"expected {'0' * 64} \({origin}"):
        fetch.fetch(kind, data)
    assert not (data / "oxford_pets").exists() and not list(data.rglob("*.zip"))


def test_first_download_is_recorded(tmp_path, server):
    _, data = publish(server, tmp_path, "OxfordPets")
    fetch.fetch(KINDS["OxfordPets"], data)
    record = json.loads((data / ".oxford_pets-source.json").read_text())
    assert record["sha256"] == hashlib.sha256(server.content["oxford_pets.zip"]).hexdigest()
    assert record["revision"] == hub.REVISION


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_server_errors_are_one_line_with_links(tmp_path, server, no_torchvision, status, capsys):
    _, data = publish(server, tmp_path, "DescribableTextures")
    server.status = status
    assert run("fetch", "dtd", "--data", data) == 2
    (message,) = capsys.readouterr().err.strip().splitlines()[-1:]
    for part in (
        "Hugging Face",
        "torchvision.datasets.DTD",
        "no network",
        KINDS["DescribableTextures"].facts.link,
        "images/",
    ):
        assert part in message


def test_archive_missing_in_repository(tmp_path, server, no_torchvision):
    (tmp_path / "data").mkdir()
    with pytest.raises(OSError, match="no dtd.zip in revision"):
        fetch.fetch(KINDS["DescribableTextures"], tmp_path / "data")


@pytest.mark.parametrize("content", [b"<html>quota exceeded</html>", b"PK\x03\x04" + bytes(100)])
def test_damaged_archive_is_rejected(tmp_path, server, no_torchvision, content):
    _, data = publish(server, tmp_path, "EuroSAT")
    server.content["eurosat.zip"] = content
    with pytest.raises(OSError, match="damaged archive"):
        fetch.fetch(KINDS["EuroSAT"], data)
    assert not (data / "eurosat").exists()
    assert [path.name for path in (data / ".eurosat-download").iterdir()] == ["eurosat.zip"]


def test_archive_of_another_dataset_is_rejected(tmp_path, server, no_torchvision):
    _, data = publish(server, tmp_path, "EuroSAT")
    server.content["dtd.zip"] = server.content["eurosat.zip"]
    with pytest.raises(OSError, match="contains eurosat; expected images"):
        fetch.fetch(KINDS["DescribableTextures"], data)


def test_missing_client_is_reported(tmp_path, no_torchvision, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OSError, match="pip install huggingface_hub"):
        fetch.fetch(KINDS["EuroSAT"], tmp_path)


def test_too_little_disk_space_is_reported(tmp_path, server, no_torchvision, monkeypatch):
    _, data = publish(server, tmp_path, "EuroSAT")
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OSError, match="Free some space"):
        fetch.fetch(KINDS["EuroSAT"], data)


def test_program_fetches_and_checks(tmp_path, server, capsys):
    _, data = publish(server, tmp_path, "OxfordPets")
    assert run("fetch", "oxford_pets", "--data", data) == 1, "the mini dataset has fewer images than the published one"
    out = capsys.readouterr().out
    assert f"{data / 'oxford_pets/images'}: fetched" in out and "oxford_pets: INCOMPLETE" in out


def test_program_renders_shapes_once(tmp_path, capsys):
    assert run("fetch", "shapes_a", "--data", tmp_path) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'shapes_a'}: fetched" in out and "shapes_a: complete" in out
    assert run("fetch", "shapes_a", "--data", tmp_path) == 0
    assert "all files exist already" in capsys.readouterr().out


def test_incomplete_shapes_name_the_folder_to_delete(tmp_path, capsys):
    (tmp_path / "shapes_a" / "test").mkdir(parents=True)
    assert run("fetch", "shapes_a", "--data", tmp_path) == 2
    assert "delete the folder, and `caspl data fetch` renders it again" in capsys.readouterr().err


def test_imagenet_prints_links(tmp_path, capsys):
    assert run("fetch", "imagenet", "--data", tmp_path) == 2
    error = capsys.readouterr().err
    assert "no automatic download" in error and KINDS["ImageNet"].facts.link in error and "images/val" in error


def test_dead_torchvision_downloads_are_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "download", offline)
    for name in ("StanfordCars", "SUN397"):
        with pytest.raises(OSError, match="links of the .* and of torchvision are dead") as error:
            fetch.fetch(KINDS[name], tmp_path)
        assert f"huggingface.co/{hub.REPOSITORY}" in str(error.value) and "ai.stanford.edu" not in str(error.value)

"""Images that are odd or broken, and machines with a full disk, a read-only folder or no GPU: named, and nothing is lost."""

import numpy as np
import protocol
import pytest
import torch
import toy
from dassl.utils import read_image
from hypothesis import given
from PIL import Image
from test_bad_files import FEW, attempt, damaged

from trainers.cli import train
from trainers.cli.program import guarded
from trainers.storage.atomic import replacing
from trainers.storage.tensors import RestrictedReadError, read_checkpoint


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures and CLIPs."""
    root = tmp_path_factory.mktemp("surroundings")
    protocol.prepare(root)
    return root


# ---- images

GREY = (np.arange(24 * 24).reshape(24, 24) % 251).astype(np.uint8)


def test_grey_palette_cmyk_and_16_bits_are_read(tmp_path):
    grey = Image.fromarray(GREY)
    grey.save(tmp_path / "grey.png")
    palette = grey.convert("P")
    palette.info["transparency"] = bytes(range(256))
    palette.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    grey.convert("RGB").convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "deep.tif")
    grey.convert("LA").save(tmp_path / "alpha.png")
    expected = np.repeat(GREY[..., None], 3, axis=2)
    for name in ("grey.png", "palette.png", "cmyk.tif", "deep.png", "deep.tif", "alpha.png"):
        image = read_image(str(tmp_path / name))
        assert image.mode == "RGB", name
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1, name


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_damaged_image_is_named(tmp_path, ending):
    path = tmp_path / f"image.{ending}"
    Image.fromarray(GREY).save(path)

    @FEW
    @given(damaged(path.read_bytes()))
    def check(data):
        path.write_bytes(data)
        attempt(lambda file: read_image(str(file)), path, OSError)

    check()


@pytest.mark.slow
def test_data_worker_names_bad_image():
    root, codes, said = protocol.play()
    lines = [line for line in said.splitlines() if line.startswith("error: cannot read")]
    assert codes["spoil"] == [2] and len(lines) == 1
    assert lines[0].startswith(f"error: cannot read the image {root / 'spoil' / 'toy' / 'train_1_2.png'}: ")


def test_run_names_bad_image(root, tmp_path, capsys):
    toy.draw(tmp_path / "toy")
    bad = tmp_path / "toy" / "train_1_2.png"
    bad.write_bytes(bad.read_bytes()[:200])
    paths = {"MODEL__BACKBONE__NAME": root / "student.pt"}
    assert guarded(lambda: train.run(toy.command(tmp_path, "CoOp", tmp_path / "run", **paths))) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: cannot read the image {bad}") and "Fetch it again" in error


def test_huge_image_is_named(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(OSError, match=r"huge\.png: the image is too large .* Shrink it"):
        read_image(str(tmp_path / "huge.png"))


# ---- the machine


def test_read_only_data_folder_trains(root, tmp_path, caplog):
    toy.draw(tmp_path / "toy")
    (tmp_path / "toy" / "split_fewshot").write_text("a file where a folder should be made: even root cannot")
    paths = {"MODEL__BACKBONE__NAME": root / "student.pt", "DATASET__NUM_SHOTS": 1}
    train.run(toy.command(tmp_path, "CoOp", tmp_path / "run", **paths))
    assert (tmp_path / "run" / "split_fewshot" / "Toy-shot_1-seed_1.json").is_file()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "warning: Cannot write" in log


def test_full_disk_is_named_and_keeps_files():
    root, codes, said = protocol.play()
    run = root / "fill" / "run"
    lines = [line for line in said.splitlines() if line.startswith(f"error: cannot write {run}")]
    assert codes["fill"] == [2] and len(lines) == 1 and "free some space" in lines[0]
    left = {path.name for path in run.rglob("*") if path.is_file() and "tensorboard" not in str(path)}
    assert left <= {"config.yaml", "identity.json", "ledger.json", "log.txt", "metrics.csv"} and not list(
        (root / "fill").glob("**/*.part")
    )
    assert train.main(toy.command(root / "fill", "CasPL", run, OPTIM__MAX_EPOCH=2)) == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed")])
def test_failed_write_keeps_existing_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match=rf"cannot write {path} .*: free some space"):
        with replacing(path) as aside:
            aside.write_text("new")
            raise error
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_missing_gpu_is_rejected(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    line = toy.command(root, "CoOp", tmp_path / "run")
    assert guarded(lambda: train.run(line)) == 2
    error = capsys.readouterr().err
    assert "CUDA_VISIBLE_DEVICES: '0', but PyTorch" in error and "USE_CUDA False" in error
    assert not (tmp_path / "run").exists()
    assert train.main([*line, "USE_CUDA", "False"]) == 0


def test_damaged_checkpoint_is_named(root, tmp_path, capsys):
    train.run(toy.command(root, "CoOp", tmp_path / "run"))
    for name, data in (("model.pth.tar-1", b"PK"), ("checkpoint", b"\xff\0"), ("checkpoint", b"../../nowhere")):
        path = tmp_path / "run" / "prompt_learner" / name
        before = path.read_bytes()
        path.write_bytes(data)
        assert guarded(lambda: train.run(["--eval-only", "--model-dir", str(tmp_path / "run")])) == 2
        assert str(tmp_path / "run" / "prompt_learner") in capsys.readouterr().err
        assert guarded(lambda: train.run(toy.command(root, "CoOp", tmp_path / "run"))) == 2
        assert str(tmp_path / "run") in capsys.readouterr().err
        assert path.read_bytes() == data
        path.write_bytes(before)
    assert read_checkpoint(tmp_path / "run" / "prompt_learner" / "model.pth.tar-1")["epoch"] == 1


def test_checkpoint_older_than_zip_is_rejected_with_remedy(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    with pytest.raises(RestrictedReadError, match="save it with a newer PyTorch"):
        read_checkpoint(tmp_path / "old.pth.tar")

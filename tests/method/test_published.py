"""Published checkpoints: import, export and `caspl convert`."""

import pickle
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from official import EXPECTED, OFFICIAL, SPEC, official_clip
from random_weights import randn

from trainers.backbones import fingerprint, tokenizer
from trainers.engine import Learner, PromptedCLIP, host_texts
from trainers.method import prompt_file, published
from trainers.method.prompt_file import CheckpointError
from trainers.storage.tensors import RestrictedReadError, read_checkpoint


@pytest.fixture(scope="module")
def clip_model():
    """The CLIP that the official checkpoint was trained around."""
    return official_clip()


def test_published_checkpoint_reproduces_logits(clip_model):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(OFFICIAL / EXPECTED["file"], weights_only=True)
    group, info = published.import_published(OFFICIAL, dataset="DescribableTextures")
    assert (group.text.shape[0], group.text.shape[1]) == (EXPECTED["depth"], EXPECTED["n_ctx"])
    assert (info.epochs, info.text_layers, info.vision_layers) == (20, 3, 3)
    assert info.student_weights == fingerprint(clip_model.visual.proj, clip_model.text_projection)
    prompt_file.check_fits(OFFICIAL, group, info, clip_model.visual, clip_model)
    model = PromptedCLIP(clip_model, Learner(), host_texts(tokenizer().encode, EXPECTED["classes"], 0))
    model.cascade(group)
    images = randn(EXPECTED["seed"], "images", (len(EXPECTED["logits"]), 3, SPEC.image, SPEC.image))
    with torch.no_grad():
        torch.testing.assert_close(model(images), torch.tensor(EXPECTED["logits"]), atol=5e-5, rtol=0)


def convert(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "caspl" / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_convert_imports_inspects_and_exports(tmp_path):
    ours, back = tmp_path / "b.safetensors", tmp_path / "published"
    done = convert("import", OFFICIAL, ours, "--dataset", "DescribableTextures")
    assert done.returncode == 0, done.stderr
    shown = convert("inspect", ours).stdout
    assert "text: depth 3, 4 tokens, width 64" in shown and "dataset: DescribableTextures" in shown
    assert convert("export", ours, back).stdout.strip() == str(back / "CasPL" / "model.pth.tar-20")
    original = read_checkpoint(OFFICIAL / EXPECTED["file"])["state_dict"]
    exported = torch.load(back / "CasPL" / "model.pth.tar-20", weights_only=True)
    assert sorted(exported["state_dict"]) == EXPECTED["prompt_keys"] and exported["epoch"] == 20
    assert all(torch.equal(value, original[key].float()) for key, value in exported["state_dict"].items())
    again, _ = published.import_published(back)
    assert torch.equal(again.text, prompt_file.load_boosting(ours)[0].text)
    failed = convert("import", tmp_path / "nothing", ours)
    assert (
        failed.returncode == 2
        and failed.stderr.startswith("error: no checkpoint at")
        and "Traceback" not in failed.stderr
    )


def test_checkpoint_without_boosting_prompt_is_rejected(tmp_path):
    torch.save({"state_dict": {"ctx": torch.zeros(4, 64)}, "epoch": 3}, tmp_path / "model.pth.tar-3")
    with pytest.raises(CheckpointError, match="no published boosting prompt; expected prompt_learner_teacher.ctx"):
        published.import_published(tmp_path / "model.pth.tar-3")


def test_matrix_larger_than_its_file_is_rejected(tmp_path):
    state = {
        published.BOOSTING.text: torch.zeros(1, 1).expand(2**31, 2**31),
        published.BOOSTING.vision: torch.zeros(4, 64),
    }
    torch.save({"state_dict": state}, tmp_path / "wide.tar")
    with pytest.raises(RestrictedReadError, match=r"wide\.tar cannot be read: a tensor of size .* repeats its storage"):
        published.import_published(tmp_path / "wide.tar")


def test_exporting_twice_writes_the_same_bytes(tmp_path):
    group, info = published.import_published(OFFICIAL)
    files = [published.export_published(tmp_path / name, group, info) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("known", [{"temperature": float("nan")}, {"temperature": -1.0}])
def test_invalid_known_value_is_rejected(known):
    with pytest.raises(ValueError, match="temperature is"):
        published.import_published(OFFICIAL, **known)

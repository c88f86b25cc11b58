"""Boosting-prompt files: what is written is what is read, and what does not fit or is not one is refused by name."""

import json
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import ROOT
from recipe import Spec, clip_state_dict, randn
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainers.backbones import build_clip, fingerprint, tokenizer
from trainers.engine import Learner, PromptedCLIP, PromptGroup, host_texts
from trainers.engine.tokens import EOT, SOS
from trainers.method import prompt_file as checkpoint
from trainers.method.prompt_file import BoostingInfo, CheckpointError
from trainers.storage.tensors import Placeholder, RestrictedReadError, read_checkpoint

OFFICIAL = ROOT / "tests" / "golden" / "official_checkpoint"
EXPECTED = json.loads((OFFICIAL / "expected.json").read_text())
SPEC = Spec(**EXPECTED["spec"])


@pytest.fixture(scope="module")
def clip_model():
    """The CLIP that the official checkpoint was trained around."""
    texts = [f"X X X X {name}." for name in EXPECTED["classes"]]
    tokens = {SOS, EOT} | {token for text in texts for token in tokenizer().encode(text)}
    return build_clip(clip_state_dict(SPEC, EXPECTED["seed"], tokens))


@pytest.fixture
def boosting(tmp_path, clip_model):
    """A file that fits `clip_model`."""
    group = PromptGroup(randn(1, "t", (3, 4, 64)), randn(1, "v", (2, 5, 64)))
    info = BoostingInfo(
        student="toy",
        student_weights=fingerprint(clip_model.visual.proj, clip_model.text_projection),
        teacher="ViT-L/14",
        text_width=64,
        vision_width=64,
        text_layers=3,
        vision_layers=3,
        order="host_first",
        temperature=2.0,
        template="{} texture.",
        dataset="DescribableTextures",
        class_names=["banded", "polka-dotted"],
        classes="all",
        epochs=20,
        seed=1,
        dtype="float32",
    )
    checkpoint.save_boosting(tmp_path / "b.safetensors", group, info)
    return tmp_path / "b.safetensors", group, info


def fits(path, clip_model):
    checkpoint.check_fits(path, *checkpoint.load_boosting(path), clip_model.visual, clip_model)


def rewrite(path, change):
    """Change a file's tensors and metadata: `change(tensors, metadata)`."""
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def test_what_is_written_is_what_is_read(boosting, clip_model):
    path, group, info = boosting
    loaded, read = checkpoint.load_boosting(path)
    assert torch.equal(loaded.text, group.text) and torch.equal(loaded.vision, group.vision)
    assert read == info and read.classes_hash == checkpoint.names_hash(["banded", "polka-dotted"])
    assert not loaded.text.requires_grad and not loaded.train().training
    fits(path, clip_model)
    with safe_open(path, "pt") as opened:
        keys = set(opened.metadata())
    assert {"format", "text_depth", "vision_tokens", "order", "temperature", "class_names", "code_version"} <= keys


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("text"), r"tensors \['vision'\], expected 'text' and 'vision'"),
        (lambda t, m: t.update(more=torch.zeros(1)), r"tensors \['more', 'text', 'vision'\]"),
        (
            lambda t, m: t.update(text=torch.zeros(3, 4, 32)),
            r"'text' has shape \(3, 4, 32\), its metadata say \(3, 4, 64\)",
        ),
        (lambda t, m: t.update(text=torch.zeros(2, 4, 64)), r"\(2, 4, 64\), its metadata say \(3, 4, 64\)"),
        (lambda t, m: t["vision"].fill_(float("nan")), "'vision' .* not finite"),
        (lambda t, m: t.update(text=t["text"].long()), "'text' .*int64.* not finite"),
        (lambda t, m: m.update(format="2"), "has format 2, this version reads format 1: update"),
        (lambda t, m: m.pop("teacher"), "metadata 'teacher' is missing"),
        (lambda t, m: m.update(epochs="many"), "metadata .* unreadable"),
        (lambda t, m: m.clear(), "no boosting-prompt file"),
        (lambda t, m: m.update(text_width="512"), "its metadata say"),
        (lambda t, m: m.update(text_layers="12"), "text layers 12 .* backbone has 3"),
        (lambda t, m: m.update(student_weights='"ab"'), "student weights ab .student toy.* backbone has"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(boosting, clip_model, change, message):
    path = boosting[0]
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        fits(path, clip_model)
    assert str(path) in str(caught.value)


def test_a_prompt_deeper_than_the_backbone_is_refused(tmp_path, clip_model):
    group = PromptGroup(torch.zeros(4, 1, 64), torch.zeros(1, 1, 64))
    checkpoint.save_boosting(tmp_path / "b.safetensors", group, BoostingInfo())
    with pytest.raises(CheckpointError, match="text depth 4, but the backbone has 3 blocks"):
        fits(tmp_path / "b.safetensors", clip_model)


def test_a_file_from_which_nothing_would_be_loaded_is_refused(tmp_path):
    checkpoint.save_boosting(
        tmp_path / "b.safetensors", PromptGroup(torch.zeros(0, 0, 64), torch.zeros(0, 8, 64)), BoostingInfo()
    )
    with pytest.raises(CheckpointError, match="nothing would be loaded"):
        checkpoint.load_boosting(tmp_path / "b.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a file of ours", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "b.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        checkpoint.load_boosting(tmp_path / "b.safetensors")


def test_a_truncated_file_is_refused(boosting):
    path = boosting[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load_boosting(path)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "CHECKPOINT is empty"),
        ("missing", "there is no such file or folder"),
        ("empty", "there is no boosting.safetensors in it: train one"),
        ("published", r"import the published checkpoint first: .*model\.pth\.tar-20"),
    ],
)
def test_a_checkpoint_that_is_not_there_says_what_to_do(tmp_path, where, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "published" / "CasPL").mkdir(parents=True)
    (tmp_path / "published" / "CasPL" / "model.pth.tar-20").touch()
    with pytest.raises(CheckpointError, match=message):
        checkpoint.find_boosting(tmp_path / where if where else "")


def test_a_published_checkpoint_gives_its_logits(clip_model):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(OFFICIAL / EXPECTED["file"], weights_only=True)
    group, info = checkpoint.import_published(OFFICIAL, dataset="DescribableTextures")
    assert (group.text.shape[0], group.text.shape[1]) == (EXPECTED["depth"], EXPECTED["n_ctx"])
    assert (info.epochs, info.text_layers, info.vision_layers) == (20, 3, 3)
    assert info.student_weights == fingerprint(clip_model.visual.proj, clip_model.text_projection)
    checkpoint.check_fits(OFFICIAL, group, info, clip_model.visual, clip_model)
    model = PromptedCLIP(clip_model, Learner(), host_texts(tokenizer().encode, EXPECTED["classes"], 0))
    model.cascade(group)
    images = randn(EXPECTED["seed"], "images", (len(EXPECTED["logits"]), 3, SPEC.image, SPEC.image))
    with torch.no_grad():
        torch.testing.assert_close(model(images), torch.tensor(EXPECTED["logits"]), atol=5e-5, rtol=0)


def convert(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "caspl" / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


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
    again, _ = checkpoint.import_published(back)
    assert torch.equal(again.text, checkpoint.load_boosting(ours)[0].text)
    failed = convert("import", tmp_path / "nothing", ours)
    assert (
        failed.returncode == 2
        and failed.stderr.startswith("error: no checkpoint at")
        and "Traceback" not in failed.stderr
    )


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_pickled_in_a_checkpoint_is_executed(tmp_path):
    trace = tmp_path / "trace"
    content = {
        "state_dict": {"x": torch.arange(6.0).reshape(2, 3).t()},
        "optimizer": Bomb(trace),
        "more": [Bomb(trace)],
    }
    torch.save(content, tmp_path / "bomb.pth.tar")
    read = read_checkpoint(tmp_path / "bomb.pth.tar")
    assert torch.equal(read["state_dict"]["x"], content["state_dict"]["x"])
    assert isinstance(read["optimizer"], Placeholder) and not trace.exists()
    torch.load(tmp_path / "bomb.pth.tar", weights_only=False)
    assert trace.exists(), "the bomb does not work, so this test shows nothing"


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "no pickle", "short storage", "cut pickle"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": {"x": torch.zeros(1000)}}, path)
    if damage in ("empty", "text", "truncated"):
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": path.read_bytes()[:2000]}[damage])
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                if name.endswith("data.pkl"):
                    if damage == "no pickle":
                        continue
                    data = data[:20] if damage == "cut pickle" else data
                archive.writestr(name, data[:100] if damage == "short storage" and "/data/" in name else data)
    with pytest.raises(RestrictedReadError, match=r"model\.pth\.tar"):
        read_checkpoint(path)


def test_a_checkpoint_without_a_boosting_prompt_is_refused(tmp_path):
    torch.save({"state_dict": {"ctx": torch.zeros(4, 64)}, "epoch": 3}, tmp_path / "model.pth.tar-3")
    with pytest.raises(CheckpointError, match="no published boosting prompt: expected prompt_learner_teacher.ctx"):
        checkpoint.import_published(tmp_path / "model.pth.tar-3")

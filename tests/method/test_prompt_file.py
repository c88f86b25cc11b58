"""The boosting-prompt file: round trip, same bytes, checksum, older files, and what is rejected."""

import json

import pytest
import torch
from official import official_clip
from random_weights import randn
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainers.backbones import fingerprint
from trainers.engine import PromptGroup
from trainers.method import prompt_file
from trainers.method.prompt_file import BoostingInfo, CheckpointError


@pytest.fixture(scope="module")
def clip_model():
    """The CLIP that the official checkpoint was trained around."""
    return official_clip()


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
    prompt_file.save_boosting(tmp_path / "b.safetensors", group, info)
    return tmp_path / "b.safetensors", group, info


def fits(path, clip_model):
    """Load a file and check it against a CLIP."""
    prompt_file.check_fits(path, *prompt_file.load_boosting(path), clip_model.visual, clip_model)


def contents(path):
    """Return a file's tensors and metadata."""
    with safe_open(path, "pt") as opened:
        return load_file(path), opened.metadata()


def rewrite(path, change, version="0.1.0"):
    """Change a file's tensors and metadata, `change(tensors, metadata)`, as a writer without checksums would."""
    tensors, metadata = contents(path)
    del metadata["checksum"]
    metadata["code_version"] = json.dumps(version)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def test_loading_returns_what_was_saved(boosting, clip_model):
    path, group, info = boosting
    loaded, read = prompt_file.load_boosting(path)
    assert torch.equal(loaded.text, group.text) and torch.equal(loaded.vision, group.vision)
    assert read == info and read.classes_hash == prompt_file.names_hash(["banded", "polka-dotted"])
    assert not loaded.text.requires_grad and not loaded.train().training
    fits(path, clip_model)
    keys = set(contents(path)[1])
    assert {"format", "text_depth", "vision_tokens", "order", "temperature", "class_names", "code_version"} <= keys


def test_saving_twice_writes_the_same_bytes(boosting, tmp_path):
    path, group, info = boosting
    prompt_file.save_boosting(tmp_path / "again.safetensors", group, info)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("place", ["values", "metadata"])
def test_any_changed_byte_is_rejected(boosting, place):
    path = boosting[0]
    intact = path.read_bytes()
    start = 8 + int.from_bytes(intact[:8], "little")
    places = range(start, len(intact), 97) if place == "values" else range(8, start, 7)
    for at in places:
        damaged = bytearray(intact)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"b\.safetensors"):
            prompt_file.load_boosting(path)


def test_zeroed_values_are_rejected(boosting):
    path = boosting[0]
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start : start + 1024] = bytes(1024)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="values or metadata were changed"):
        prompt_file.load_boosting(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("classes", "new"), ("seed", 2), ("temperature", 1.0), ("images", 7), ("labels", True), ("dataset", "Food101")],
)
def test_changed_metadata_is_rejected(boosting, key, value):
    path = boosting[0]
    tensors, metadata = contents(path)
    save_file(tensors, path, metadata | {key: json.dumps(value)})
    with pytest.raises(CheckpointError, match="values or metadata were changed"):
        prompt_file.load_boosting(path)


def test_file_of_first_version_is_read_with_one_warning(boosting, clip_model, caplog):
    path, group, _ = boosting
    newer = ("identity", "teacher_weights", "images", "labels")
    rewrite(path, lambda t, m: [m.pop(key) for key in newer])
    loaded, info = prompt_file.load_boosting(path)
    assert torch.equal(loaded.text, group.text) and (info.identity, info.images, info.labels) == ("", 0, False)
    assert [record.message for record in caplog.records] == [
        f"{path} has no checksum (written by version 0.1.0): damage goes unnoticed"
    ]


def test_file_without_checksum_of_a_later_version_is_rejected(boosting):
    rewrite(boosting[0], lambda t, m: None, version="0.2.0")
    with pytest.raises(CheckpointError, match="no checksum"):
        prompt_file.load_boosting(boosting[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("text"), r"tensors \['vision'\]; expected 'text' and 'vision'"),
        (lambda t, m: t.update(more=torch.zeros(1)), r"tensors \['more', 'text', 'vision'\]"),
        (
            lambda t, m: t.update(text=torch.zeros(3, 4, 32)),
            r"'text' has shape \(3, 4, 32\); its metadata announce \(3, 4, 64\)",
        ),
        (lambda t, m: t.update(text=torch.zeros(2, 4, 64)), r"\(2, 4, 64\); its metadata announce \(3, 4, 64\)"),
        (lambda t, m: t["vision"].fill_(float("nan")), "'vision' .* not finite"),
        (lambda t, m: t.update(text=t["text"].long()), "'text' .*int64.* not finite"),
        (lambda t, m: m.update(format="2"), "has format 2, this version reads format 1. Update"),
        (lambda t, m: m.pop("text_depth"), "invalid metadata, 'text_depth'"),
        (lambda t, m: m.update(epochs="many"), "invalid metadata"),
        (lambda t, m: m.update(epochs="-1"), "invalid metadata, epochs is -1"),
        (lambda t, m: m.update(temperature="0"), "invalid metadata, temperature is 0"),
        (lambda t, m: m.update(temperature="NaN"), "invalid metadata, temperature is nan"),
        (lambda t, m: m.update(order='"sideways"'), "invalid metadata, order is 'sideways'"),
        (lambda t, m: m.update(classes='"most"'), "invalid metadata, classes is 'most'"),
        (lambda t, m: m.update(class_names='["banded"]'), "invalid metadata, classes_hash is"),
        (lambda t, m: m.update(class_names="[1, 2]"), "invalid metadata"),
        (lambda t, m: m.clear(), "is not a boosting-prompt file"),
        (lambda t, m: m.update(text_width="512"), "its metadata announce"),
        (lambda t, m: m.update(text_layers="12"), "text layers 12 .* backbone has 3"),
        (lambda t, m: m.update(student_weights='"ab"'), "student weights ab .student toy.* backbone has"),
    ],
)
def test_invalid_file_is_rejected_by_name(boosting, clip_model, change, message):
    path = boosting[0]
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        fits(path, clip_model)
    assert str(path) in str(caught.value)


def test_prompt_deeper_than_backbone_is_rejected(tmp_path, clip_model):
    group = PromptGroup(torch.zeros(4, 1, 64), torch.zeros(1, 1, 64))
    prompt_file.save_boosting(tmp_path / "b.safetensors", group, BoostingInfo())
    with pytest.raises(CheckpointError, match="text depth 4; the backbone has 3 blocks"):
        fits(tmp_path / "b.safetensors", clip_model)


@pytest.mark.parametrize("empty", ["text", "vision"])
def test_prompt_of_one_tower_is_accepted(tmp_path, clip_model, empty):
    stacks = {"text": torch.randn(2, 3, 64), "vision": torch.randn(2, 3, 64), empty: torch.zeros(0, 0, 64)}
    prompt_file.save_boosting(tmp_path / "b.safetensors", PromptGroup(**stacks), BoostingInfo())
    fits(tmp_path / "b.safetensors", clip_model)
    group, _ = prompt_file.load_boosting(tmp_path / "b.safetensors")
    assert all(torch.equal(getattr(group, tower), stack) for tower, stack in stacks.items())


def test_prompt_without_tokens_is_rejected(tmp_path):
    group = PromptGroup(torch.zeros(0, 0, 64), torch.zeros(0, 8, 64))
    prompt_file.save_boosting(tmp_path / "b.safetensors", group, BoostingInfo())
    with pytest.raises(CheckpointError, match="nothing would be loaded"):
        prompt_file.load_boosting(tmp_path / "b.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a file of ours", b"\x08\0\0\0\0\0\0\0{}      "])
def test_other_format_is_rejected(tmp_path, content):
    (tmp_path / "b.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        prompt_file.load_boosting(tmp_path / "b.safetensors")


def test_truncated_file_is_rejected(boosting):
    path = boosting[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        prompt_file.load_boosting(path)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "CHECKPOINT: empty"),
        ("missing", "no such file or folder"),
        ("empty", r"a folder without boosting.safetensors\. Train one"),
        ("published", r"Import the published checkpoint first: .*model\.pth\.tar-20"),
    ],
)
def test_missing_checkpoint_error_suggests_remedy(tmp_path, where, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "published" / "CasPL").mkdir(parents=True)
    (tmp_path / "published" / "CasPL" / "model.pth.tar-20").touch()
    with pytest.raises(CheckpointError, match=message):
        prompt_file.find_boosting(tmp_path / where if where else "")

"""Teachers: a stock CLIP of another size, any CLIP of open_clip, and the view of a batch that each gets."""

import json
import logging
import sys

import protocol
import pytest
import torch
import toy
from safetensors.torch import save_file
from torchvision.transforms import functional as T

from trainers.backbones import BackboneError
from trainers.cli import train
from trainers.config import ConfigError
from trainers.engine.precision import Precision
from trainers.method.teachers import Teacher, TeacherTransform, load_teacher
from trainers.method.teachers.stock import StockTeacher

open_clip = pytest.importorskip("open_clip")
ARCHITECTURE = "toy-ViT-64"
PLAIN = Precision("fp32")
TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs, an architecture that open_clip knows, and random weights for it in three kinds of files."""
    root = tmp_path_factory.mktemp("teacher")
    protocol.prepare(root)
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 24, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (root / f"{ARCHITECTURE}.json").write_text(json.dumps(config))
    open_clip.add_model_config(root / f"{ARCHITECTURE}.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = open_clip.create_model(ARCHITECTURE)
    model.logit_scale.data.fill_(3.0)
    state = model.state_dict()
    save_file(state, root / "weights.safetensors")
    torch.save(state, root / "weights.pt")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, root / "epoch_3.pt"
    )
    return root


def name(root, file="weights.pt"):
    """The backbone's name."""
    return f"open_clip:{ARCHITECTURE}/{root / file}"


@pytest.mark.parametrize("file", ["weights.pt", "weights.safetensors", "epoch_3.pt"])
def test_logits_match_open_clip(root, file):
    teacher = load_teacher(name(root, file), toy.NAMES, TEMPLATE, PLAIN)
    model, _, preprocess = open_clip.create_model_and_transforms(ARCHITECTURE, str(root / "weights.pt"))
    tokens = open_clip.get_tokenizer(ARCHITECTURE)([f"a photo of a {each.replace('_', ' ')}." for each in toy.NAMES])
    image = torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        texts = model.eval().encode_text(tokens, normalize=True)
        expected = torch.exp(torch.tensor(3.0)) * model.encode_image(image, normalize=True) @ texts.t()
        assert torch.allclose(teacher(image), expected, atol=1e-4)
    assert teacher.size == 24 and teacher.statistics == (preprocess.transforms[-1].mean, preprocess.transforms[-1].std)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_close(root, dtype):
    image = torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        half = load_teacher(name(root), toy.NAMES, TEMPLATE, Precision("half", weights=dtype))(image)
        full = load_teacher(name(root), toy.NAMES, TEMPLATE, PLAIN)(image)
    assert half.dtype == torch.float32 and torch.allclose(half, full, atol=0.3) and not torch.equal(half, full)


@pytest.mark.parametrize("views", [0, 1])
def test_phase_1_runs_with_open_clip_teacher(root, tmp_path, views, caplog):
    more = {"TRAINER__CASPL__TEACHER__BACKBONE": name(root), "TRAINER__CASPL__TEACHER__VIEWS": views}
    line = toy.command(root, "CasPL", tmp_path, TRAINER__CASPL__TEACHER__CACHE=tmp_path / "cache", **more)
    with caplog.at_level(logging.INFO):
        train.run(line)
    assert (tmp_path / "boosting.safetensors").is_file() and "Loaded open_clip" in caplog.text
    assert load_described(tmp_path / "cache")["view"]["size"] == 24


def load_described(folder):
    """Return the description of the only cache in a folder."""
    return json.loads(next(folder.glob("*.json")).read_text())


def test_text_longer_than_tokenizer_limit_is_rejected(root):
    """It takes 77 tokens: SOS, EOT, and 75 words of one token each."""
    load_teacher(name(root), ["tree " * 74 + "tree"], "{}", PLAIN)
    with pytest.raises(ConfigError, match="more than the 77 tokens"):
        load_teacher(name(root), ["tree", "tree " * 75 + "tree"], "{}", PLAIN)


@pytest.mark.parametrize("backbone", ["stock", "open_clip"])
def test_loading_teacher_leaves_random_state_unchanged(root, backbone):
    torch.manual_seed(5)
    load_teacher(name(root) if backbone == "open_clip" else str(root / "teacher.pt"), toy.NAMES, TEMPLATE, PLAIN)
    drawn = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(2))


def test_stock_teacher_gets_images_of_its_size(root, tmp_path, monkeypatch):
    from dataclasses import replace

    toy.save_clip(root / "large.pt", replace(toy.TEACHER, grid=3), seed=4)
    sizes, compute = set(), StockTeacher.image_features

    def watching(teacher, image):
        sizes.add(tuple(image.shape[1:]))
        return compute(teacher, image)

    monkeypatch.setattr(StockTeacher, "image_features", watching)
    train.run(toy.command(root, "CasPL", tmp_path, TRAINER__CASPL__TEACHER__BACKBONE=root / "large.pt"))
    assert sizes == {(3, 24, 24)}


class Fixed(Teacher):
    """A teacher of some size and statistics."""

    def __init__(self, size, statistics=None):
        super().__init__()
        self.size, self.statistics = size, statistics


MEAN, STD, THEIRS = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


@pytest.mark.parametrize("statistics", [None, (MEAN, STD), tuple(map(list, (MEAN, STD)))])
def test_transform_returns_same_batch_if_nothing_differs(statistics):
    image = torch.randn(2, 3, 16, 16)
    assert TeacherTransform(Fixed(16, statistics), 16, MEAN, STD)(image) is image


@pytest.mark.parametrize("size", [16, 24, 8])
def test_transform_resizes_clamps_and_normalises(size):
    pixels = torch.rand(2, 3, 16, 16).round()  # hard edges, so that the kernel overshoots
    view = TeacherTransform(Fixed(size, THEIRS), 16, MEAN, STD)(T.normalize(pixels, MEAN, STD))
    expected = T.resize(pixels, [size, size], T.InterpolationMode.BICUBIC, antialias=True) if size != 16 else pixels
    assert torch.allclose(view, T.normalize(expected.clamp(0, 1), *THEIRS), atol=1e-5)


def test_fingerprint_depends_on_all_weights_not_classes(root):
    def of(backbone, names=toy.NAMES):
        return load_teacher(backbone, names, TEMPLATE, PLAIN)

    for backbone in (name(root), str(root / "teacher.pt")):
        teacher = of(backbone)
        first = teacher.fingerprint()
        assert first == of(backbone, ["cat"]).fingerprint()
        for parameter in list(teacher.parameters())[::7]:
            before = parameter.data.clone()
            parameter.data.flatten()[-1] += 1
            assert teacher.fingerprint() != first
            parameter.data = before
        assert teacher.fingerprint() == first


@pytest.mark.parametrize(
    "backbone, error, said",
    [
        ("open_clip:", BackboneError, "<architecture>/<tag or file>"),
        ("open_clip:ViT-B-32", BackboneError, "<architecture>/<tag or file>"),
        ("open_clip:ViT-H-15/laion2b_s32b_b79k", BackboneError, "ViT-H-14"),
        ("open_clip:ViT-H-14/laion2b", BackboneError, "laion2b_s32b_b79k"),
        (f"open_clip:{ARCHITECTURE}/ROOT/teacher.pt", BackboneError, "does not hold the weights"),
        (f"open_clip:{ARCHITECTURE}/ROOT/toy/train_0_0.png", BackboneError, "cannot be read"),
        (f"open_clip:{ARCHITECTURE}/ROOT/broken.safetensors", BackboneError, "cannot be read as a checkpoint"),
        (f"open_clip:{ARCHITECTURE}/ROOT/nan.pt", BackboneError, "visual.proj has values that are not finite"),
    ],
)
def test_unavailable_teacher_error_names_alternatives(root, backbone, error, said):
    (root / "broken.safetensors").write_bytes(b"nothing like it")
    state = torch.load(root / "weights.pt", weights_only=True)
    torch.save(state | {"visual.proj": state["visual.proj"] / 0}, root / "nan.pt")
    with pytest.raises(error, match=said):
        load_teacher(backbone.replace("ROOT", str(root)), toy.NAMES, TEMPLATE, PLAIN)


def test_missing_open_clip_error_suggests_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(BackboneError, match="pip install open_clip_torch"):
        load_teacher(name(root), toy.NAMES, TEMPLATE, PLAIN)


def test_pickled_code_is_not_executed(root, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "run"), "w")

    torch.save({"visual.proj": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(BackboneError, match="cannot be read"):
        load_teacher(name(tmp_path, "evil.pt"), toy.NAMES, TEMPLATE, PLAIN)
    assert not (tmp_path / "run").exists()

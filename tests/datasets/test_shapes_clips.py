"""The small CLIPs of `shapes` and their training."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from clip.clip import tokenize
from clip.model import CLIP
from conftest import ROOT
from PIL import Image
from torch.nn import functional as F

from datasets.readers import shapes
from datasets.readers.shapes import Shapes
from datasets.shapes import dataset as rendered
from datasets.shapes import rendering
from scripts.shapes import captions, contrastive, extra_tokens, train_clips

CLIPS = ("student", "student-tokens", "teacher")
WEIGHTS = {name: ROOT / "trainers/backbones/weights" / f"shapes-{name}.pt" for name in CLIPS}
CLASSES = tuple(Shapes.classes)


def load(name):
    """Build a stock float32 CLIP from a stored state dict."""
    state = torch.load(WEIGHTS[name], weights_only=True)
    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = patch * round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    vision_layers, text_layers = (
        len([key for key in state if key.startswith(tower) and key.endswith("in_proj_weight")])
        for tower in ("visual.transformer.", "transformer.")
    )
    text_width = len(state["ln_final.weight"])
    model = CLIP(
        state["text_projection"].shape[1], side, vision_layers, width, patch,
        *state["positional_embedding"].shape[:1], *state["token_embedding.weight"].shape[:1],
        text_width, text_width // 64, text_layers,
    )  # fmt: skip
    model.load_state_dict(state)
    return model.float().eval()


def test_stored_models_are_small_float16_clips():
    assert sum(path.stat().st_size for path in WEIGHTS.values()) <= 12e6
    for name, path in WEIGHTS.items():
        state = torch.load(path, weights_only=True)
        assert {tensor.dtype for tensor in state.values()} == {torch.float16}
        assert state["token_embedding.weight"].shape[0] == 49408
        assert state["positional_embedding"].shape[0] == 77
        for key in ("visual.conv1.weight", "ln_final.weight"):
            assert len(state[key]) % 64 == 0
        assert not any(parameter.isnan().any() for parameter in load(name).parameters())


@pytest.mark.parametrize("name", CLIPS)
def test_models_know_all_words_of_class_names(name):
    rows = load(name).token_embedding.weight[tokenize(list(CLASSES))]
    assert (rows.norm(dim=-1)[tokenize(list(CLASSES)) > 0] > 0).all()


@torch.no_grad()
def test_teacher_beats_student_zero_shot(monkeypatch):
    monkeypatch.setattr(Shapes, "sizes", {**Shapes.sizes, "test": 8})
    stored = [Image.open(io.BytesIO(rendered.encode(picture))) for picture in Shapes.images("test")]
    pictures = torch.from_numpy(np.stack([np.asarray(picture) for picture in stored])).permute(0, 3, 1, 2)
    labels = torch.tensor([label for _, label, _ in Shapes.members("test")])
    images, accuracy = contrastive.prepare(pictures), {}
    for name in WEIGHTS:
        model = load(name)
        texts = model.encode_text(tokenize([f"a photo of a {name}." for name in CLASSES]))
        logits = F.normalize(model.encode_image(images), dim=-1) @ F.normalize(texts, dim=-1).T
        accuracy[name] = (logits.argmax(1) == labels).float().mean().item()
    for student in ("student", "student-tokens"):
        assert accuracy["teacher"] >= accuracy[student] + 0.08
        assert accuracy[student] > 5 / len(CLASSES)
    assert accuracy["teacher"] < 0.95


# ---------------------------------------- their training


def test_training_is_reproducible(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stages = contrastive.Stage(rendering.SOURCE, 4, 1e-3), contrastive.Stage(rendering.WIDE, 4, 1e-3)
    spec = dataclasses.replace(train_clips.SPECS["student"], stages=stages, pool=128, warmup=2)
    try:
        for path in (tmp_path / "a.pt", tmp_path / "b.pt"):
            model, used = contrastive.train("student", spec, 1, 1)
            train_clips.save(model, used, path)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    stored = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(stored["token_embedding.weight"][used], model.token_embedding.weight.half())
    assert stored["token_embedding.weight"].count_nonzero(1).bool().sum() == len(used)
    fresh = contrastive.new_model(spec, contrastive.Vocabulary())
    assert not torch.equal(stored["visual.proj"], fresh.visual.proj.half())


def test_second_student_starts_from_the_first_and_meets_random_tokens():
    spec = dataclasses.replace(train_clips.SPECS["student-tokens"], pool=64, batch=32, warmup=2)
    assert spec.start == WEIGHTS["student"] and spec.stages[0].tokens > 0
    trained = {}
    for share in (0.0, 1.0):
        stage = contrastive.Stage(rendering.SOURCE, 4, 1e-4, tokens=share)
        model, used = contrastive.train("student", dataclasses.replace(spec, stages=(stage,)), 1, 1)
        trained[share] = model.visual.proj
    start = torch.load(WEIGHTS["student"], weights_only=True)
    assert torch.equal(start["token_embedding.weight"].any(1).nonzero().flatten(), used)
    assert all((proj - start["visual.proj"]).abs().max() < 0.005 for proj in trained.values())
    assert not torch.equal(trained[0.0], trained[1.0])


@torch.no_grad()
def test_random_tokens_change_image_features(monkeypatch):
    visual, images = load("student").visual, torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    first, again, other = (
        extra_tokens.encode_image(visual, images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == visual(images).shape
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.allclose(first, visual(images), atol=1e-3)
    monkeypatch.setattr(extra_tokens, "_tokens", lambda number, x, _: x[:, :0])
    plain = extra_tokens.encode_image(visual, images, torch.Generator().manual_seed(1))
    assert torch.allclose(plain, visual(images), atol=1e-5)


def test_captions_are_true_and_student_misses_pairs():
    wavy_star = captions.Scene("wavy", "star", "red")
    said = [
        ("wavy", "star", ""),
        ("", "star", "red"),
        ("", "", ""),
        ("dotted", "star", ""),
        ("", "star", "blue"),
    ]
    assert contrastive.truth([wavy_star], said).tolist() == [[True, True, True, False, False]]
    fills = {fill for fill, _ in captions.LEFT_OUT}
    assert fills & set(shapes.FILLS[:3]) and fills & set(shapes.FILLS[3:])
    seen = {(s.fill, s.shape) for s in captions.scenes(captions.LEFT_OUT)}
    assert not seen & captions.LEFT_OUT
    assert {f for f, _ in seen} >= set(shapes.FILLS) and {s for _, s in seen} >= set(shapes.SHAPES)


def test_truncated_captions_equal_padded_captions():
    vocabulary = contrastive.Vocabulary()
    model = contrastive.new_model(train_clips.SPECS["student"], vocabulary)
    lines = ["a photo of a wavy star.", "a star", "itap of a small red plain circle."]
    padded = vocabulary.number[tokenize(lines)].clamp(min=0)
    with torch.no_grad():
        expected = model.encode_text(padded)
        assert torch.allclose(contrastive.encode_text(model, vocabulary(lines)), expected, atol=1e-5)

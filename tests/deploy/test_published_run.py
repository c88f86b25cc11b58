"""`caspl convert run`: a published PromptSRC checkpoint as a finished run."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
import toy
from conftest import ROOT
from published_layout import state_dict
from random_weights import STUDENT, clip_state_dict, randn

from trainers.backbones import tokenizer
from trainers.cli import convert, train
from trainers.deploy import classifier
from trainers.engine.precision import Precision
from trainers.engine.tokens import EOT, SOS
from trainers.method.teachers import load_teacher

FIXTURES = ROOT / "tests" / "golden" / "parity"


class Published:
    """A checkpoint in the published layout, and the file of the CLIP that it was trained around."""

    def __init__(self, folder, clip_state, stacks, names, dtype=torch.float32):
        self.state = state_dict(clip_state, *stacks, names, dtype)
        self.backbone, self.file = folder / "clip.pt", folder / "VLPromptLearner" / "model-best.pth.tar"
        torch.save(clip_state, self.backbone)
        self.save(self.state)

    def save(self, state, **more):
        """Write a state dict as the checkpoint."""
        self.file.parent.mkdir(exist_ok=True)
        torch.save({"state_dict": state, "epoch": 20, **more}, self.file)

    def convert(self, target, *more):
        """Run the command; return its exit code."""
        line = ["run", str(self.file.parent.parent), str(target), "--dataset", "oxford_pets", "--classes", "base"]
        return convert.main([*line, "--backbone", str(self.backbone), *more])


@pytest.mark.parametrize("fixture", ["promptsrc-a4x3", pytest.param("promptsrc-a8x2", marks=pytest.mark.slow)])
def test_logits_are_those_of_the_published_code(fixture, tmp_path):
    data = np.load(FIXTURES / f"{fixture}.npz")
    meta = json.loads(str(data["meta"]))
    words = [name.replace("_", " ") for name in meta["classes"]]
    tokens = {SOS, EOT} | {token for word in words for token in tokenizer().encode(f"a photo of a {word}.")}
    stacks = [
        torch.stack(
            [randn(meta["seed"], f"promptsrc.{tower}.{i}", (meta["n_ctx"], width), 0.02) for i in range(meta["depth"])]
        )
        for tower, width in (("text", STUDENT.text_width), ("vision", STUDENT.vision_width))
    ]
    published = Published(tmp_path, clip_state_dict(STUDENT, meta["seed"], tokens), stacks, meta["classes"])
    assert published.convert(tmp_path / "run") == 0
    loaded = classifier.load(tmp_path / "run")
    encode = tokenizer().encode
    assert [encode(name) for name in loaded.class_names] == [encode(word) for word in words]
    teacher = load_teacher(f"run:{tmp_path / 'run'}", meta["classes"], "unused {}", Precision("fp32"))
    images = randn(meta["seed"], "images", (meta["batch"], 3, STUDENT.image, STUDENT.image))
    with torch.no_grad():
        for logits in (loaded(images), teacher(images)):
            torch.testing.assert_close(logits, torch.from_numpy(data["logits"]), atol=5e-5, rtol=0)


@pytest.fixture
def published(tmp_path):
    """Return a checkpoint around a small CLIP, trained on the toys' base classes, its frozen weights in float16."""
    toy.save_clip(tmp_path / "clip.pt", toy.TEACHER, seed=4)
    weights = torch.load(tmp_path / "clip.pt", weights_only=True)
    stacks = [torch.randn(2, 4, width) * 0.02 for width in (toy.TEACHER.text_width, toy.TEACHER.vision_width)]
    return Published(tmp_path, weights, stacks, toy.NAMES[:3], torch.float16)


def test_hostile_pickle_is_not_executed(published, tmp_path):
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    published.save(published.state, scheduler=Hostile(), val_result=np.float64(3))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(published.file, weights_only=True)
    assert published.convert(tmp_path / "run") == 0 and not canary.exists()
    published.save(published.state | {"prompt_learner.ctx": Hostile()})
    assert published.convert(tmp_path / "other") == 2 and not canary.exists() and not (tmp_path / "other").exists()


def without(key):
    """Return a change of a state dict: an entry is missing."""
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("image_encoder.VPT"),
            "no published PromptSRC model; expected prompt_learner.ctx and image_encoder.VPT",
        ),
        (without("prompt_learner.token_suffix"), "does not hold its class names. Give --names FILE"),
        (lambda state: state | {"prompt_learner_teacher.ctx": torch.zeros(4, 64)}, "has a boosting prompt too"),
        (lambda state: state | {"image_encoder.VPT": torch.full((4, 128), torch.nan)}, "not finite"),
        (lambda state: state | {"image_encoder.proj": -state["image_encoder.proj"]}, "other values than the backbone"),
        (lambda state: state | {"prompt_learner.ctx": torch.zeros(3, 64)}, "differ in shape"),
        (lambda state: state | {"prompt_learner.token_suffix": torch.zeros(2, 72, 64)}, "Give --names FILE"),
    ],
)
def test_checkpoint_that_does_not_fit_is_named(published, tmp_path, capsys, change, message):
    published.save(change(published.state))
    assert published.convert(tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and not (tmp_path / "run").exists()


def test_other_backbone_truncated_file_and_used_folder_are_rejected(published, tmp_path, capsys):
    toy.save_clip(tmp_path / "toy.pt")
    assert published.convert(tmp_path / "run", "--backbone", str(tmp_path / "toy.pt")) == 2
    assert "prompts of width 64 (text) and 128 (vision); expected 64 and 64" in capsys.readouterr().err
    assert published.convert(tmp_path) == 2 and "expected a new folder" in capsys.readouterr().err
    published.file.write_bytes(published.file.read_bytes()[:5000])
    assert not zipfile.is_zipfile(published.file)
    assert published.convert(tmp_path / "run") == 2 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"), [("a\nb\n", "2 names are given"), ("a\na\n", "each once"), ("", "0 names")]
)
def test_given_names_are_checked(published, tmp_path, capsys, text, message):
    (tmp_path / "names.txt").write_text(text)
    assert published.convert(tmp_path / "run", "--names", str(tmp_path / "names.txt")) == 2
    assert message in capsys.readouterr().err


def test_imported_run_evaluates_and_teaches_phase_1(published, tmp_path):
    toy.draw(tmp_path / "toy")
    toy.save_clip(tmp_path / "student.pt")
    assert published.convert(tmp_path / "run") == 0
    assert classifier.load(tmp_path / "run").class_names == ["red fox", "tree", "hot air balloon"]
    evaluated = ["--eval-only", "--model-dir", str(tmp_path / "run"), "--root", str(tmp_path), "DATASET.NAME", "Toy"]
    assert train.run(evaluated)["accuracy"] >= 0
    phase_1 = toy.command(tmp_path, "CasPL", tmp_path / "boost")
    train.run([*phase_1, "TRAINER.CASPL.TEACHER.RUN", str(tmp_path / "run")])
    assert (tmp_path / "boost" / "boosting.safetensors").is_file()

"""The ablation `TRAINER.CASPL.JOINT`: a boosting prompt that is learned with the host's prompts."""

import json

import pytest
import torch
import toy
from plain import image_features, text_features
from torch.nn import functional as F

from trainers.backbones import load_clip
from trainers.cli import train
from trainers.cli.program import guarded
from trainers.deploy import classifier
from trainers.engine import PromptGroup
from trainers.engine.symbols import arrange, slots
from trainers.engine.tokens import BOOSTING, SOS
from trainers.hosts import promptsrc
from trainers.method import prompt_file
from trainers.storage.tensors import read_checkpoint
from trainers.training.trainer import PromptTrainer

JOINT = {"TRAINER__CASPL__JOINT": True, "OPTIM__MAX_EPOCH": 2, "OPTIM__LR": 0.1, "TRAIN__CHECKPOINT_FREQ": 1}
FOLDERS = {"CoOp": "prompt_learner", "CoCoOp": "prompt_learner", "PromptSRC": "VLPromptLearner"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Toy pictures, a CLIP and a boosting prompt."""
    root = tmp_path_factory.mktemp("joint")
    toy.draw(root / "toy")
    toy.save_clip(root / "student.pt")
    group = PromptGroup.random((2, 3, 64), (3, 2, 64))
    prompt_file.save_boosting(root / prompt_file.FILE_NAME, group, prompt_file.BoostingInfo())
    return root


def run(root, host, folder, **more):
    """Train CasPL_<host> on the toys; return the metrics."""
    more = JOINT | {"TRAINER__CASPL__CHECKPOINT": root, "DATASET__NUM_SHOTS": 2} | more
    if host == "PromptSRC":
        more["TRAINER__PROMPTSRC__GPA_MEAN"] = 2
    return train.run(toy.command(root, f"CasPL_{host}", folder, **more))


@pytest.mark.parametrize("order", ["boosting_first", "host_first"])
def test_logits_and_gradients_match_plain(root, order):
    torch.manual_seed(1)
    model = promptsrc.build(load_clip(str(root / "student.pt")), toy.NAMES, 2, 2, "", 3, 2)
    group = PromptGroup.random((3, 3, 64), (2, 2, 64), std=0.3)
    model.join(group, order)
    images = torch.randn(3, 3, 16, 16)
    sequences = [(SOS, *arrange(text, slots(BOOSTING, 3), order)) for text in model.texts]
    texts = text_features(model.clip, sequences, [list(model.prompt_learner.text), list(group.text)])
    seen = image_features(model.clip, images, [list(group.vision), list(model.prompt_learner.vision)])
    plain = model.clip.logit_scale.exp() * F.normalize(seen, dim=-1) @ F.normalize(texts, dim=-1).t()
    fast = model(images)
    torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-5)
    leaves = [group.text, group.vision, model.prompt_learner.text, model.prompt_learner.vision]
    for got, want in zip(
        *(torch.autograd.grad(logits.square().sum(), leaves) for logits in (fast, plain)), strict=True
    ):
        assert want.norm() > 0 and (got - want).norm() <= 1e-4 * want.norm()


@pytest.mark.parametrize("host", FOLDERS)
def test_joint_prompt_is_learned_kept_and_loaded(root, tmp_path, host):
    trained = run(root, host, tmp_path / "run")
    assert trained == train.run(["--eval-only", "--model-dir", str(tmp_path / "run")])
    files = [tmp_path / "run" / FOLDERS[host] / f"model.pth.tar-{epoch}" for epoch in (1, 2)]
    first, last = (read_checkpoint(path)["state_dict"] for path in files)
    assert all(not first[key].equal(last[key]) for key in ("joined.text", "joined.vision"))
    (item,) = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert item["phase"] == "adapting" and item["labels"]
    loaded = classifier.load(tmp_path / "run")
    assert loaded.model.boosting is loaded.model.prompt_learner.joined
    phase_1, _ = prompt_file.load_boosting(root / prompt_file.FILE_NAME)
    assert loaded.model.boosting.text.shape == phase_1.text.shape
    assert not torch.equal(loaded.model.boosting.text, phase_1.text)
    image = torch.randn(2, 3, 16, 16)
    again = loaded.with_classes(loaded.class_names)
    assert torch.equal(loaded(image), again(image))


def test_interrupted_joint_run_resumes_to_the_same_values(root, tmp_path, monkeypatch):
    run(root, "CoOp", tmp_path / "whole")

    def stop(trainer):
        if trainer.epoch == 1:
            raise RuntimeError("stopped")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="stopped"):
        patched.setattr(PromptTrainer, "before_epoch", stop)
        run(root, "CoOp", tmp_path / "part")
    assert (tmp_path / "part" / "progress.pt").is_file()
    run(root, "CoOp", tmp_path / "part")
    states = [read_checkpoint(tmp_path / name / "prompt_learner/model.pth.tar-2") for name in ("whole", "part")]
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key])


def test_prompt_is_averaged_over_epochs_as_the_hosts_are(root):
    model = promptsrc.build(load_clip(str(root / "student.pt")), toy.NAMES, 2, 2, "", 3, 2)
    group = PromptGroup.random((2, 3, 64), (2, 2, 64))
    model.join(group)
    first = group.text.detach().clone()
    for weight in (0.25, 0.75):
        model.prompt_learner.accumulate(weight)
        with torch.no_grad():
            group.text += 1
    model.prompt_learner.use_sum()
    torch.testing.assert_close(group.text.detach(), first + 0.75)


def test_other_value_in_a_used_folder_is_rejected(root, tmp_path, capsys):
    run(root, "CoOp", tmp_path / "run")
    line = toy.command(root, "CasPL_CoOp", tmp_path / "run", **JOINT | {"TRAINER__CASPL__CHECKPOINT": root})
    at = line.index("TRAINER.CASPL.JOINT")
    assert guarded(lambda: train.run([*line[:at], *line[at + 2 :], "DATASET.NUM_SHOTS", "2"])) == 2
    assert "TRAINER.CASPL.JOINT" in capsys.readouterr().err

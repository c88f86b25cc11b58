"""PromptKD: unlabelled training on all classes, evaluation on any, the teacher cache and the cascade."""

import json
import random

import pytest
import torch
import toy

from trainers.cli import train
from trainers.deploy import classifier
from trainers.method import prompt_file

BASE = {"DATASET__SUBSAMPLE_CLASSES": "base", "DATASET__NUM_SHOTS": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Toy pictures and CLIPs, and a boosting prompt for the vision tower."""
    root = tmp_path_factory.mktemp("promptkd")
    toy.draw(root / "toy")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    group = prompt_file.PromptGroup(torch.zeros(0, 0, 64), torch.randn(2, 3, 64) * 0.02)
    prompt_file.save_boosting(root / prompt_file.FILE_NAME, group, prompt_file.BoostingInfo())
    return root


def run(root, folder, trainer="PromptKD", **more):
    """Train on the toys and return the metrics."""
    more = {
        "TRAINER__PROMPTKD__TEACHER": root / "teacher.pt",
        "TRAINER__PROMPTKD__PREC": "fp32",
        "TRAINER__PROMPTKD__PROMPT_DEPTH_VISION": 2,
        "OPTIM__LR": 1e-4,
        **BASE,
        **more,
    }
    if trainer.startswith("CasPL"):
        more |= {"TRAINER__CASPL__CHECKPOINT": root}
    return train.run(toy.command(root, trainer, folder, **more))


def learned(folder):
    """Return the learned tensors of a run."""
    return torch.load(folder / "VLPromptLearner" / "model.pth.tar-1", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def first(root):
    """A run's folder and metrics."""
    return root / "first", run(root, root / "first")


def test_run_evaluates_to_its_figure_and_on_new_classes(first):
    folder, trained = first
    assert trained == train.run(["--eval-only", "--model-dir", str(folder)])
    new = train.run(["--eval-only", "--model-dir", str(folder), "DATASET.SUBSAMPLE_CLASSES", "new"])
    assert 0 <= new["accuracy"] <= 100
    assert {key for key in learned(folder) if key.startswith("projector.1")} == {
        f"projector.1.{what}" for what in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_provenance_counts_all_images_without_labels(first):
    (entry,) = json.loads((first[0] / "ledger.json").read_text())
    assert (entry["images"], entry["labels"], entry["classes"]) == (24, False, "all")
    assert entry["class_names"] == toy.NAMES


def test_labels_and_shots_do_not_change_training(root, tmp_path, first):
    run(root, tmp_path / "shots", DATASET__NUM_SHOTS=2)
    files = sorted(path.name for path in (root / "toy").glob("train_*"))
    labels = [int(name.split("_")[1]) for name in files]
    random.Random(5).shuffle(labels)
    (root / "toy" / "labels.json").write_text(json.dumps(dict(zip(files, labels, strict=True))))
    run(root, tmp_path / "labels", DATASET__NUM_SHOTS=-1)
    (root / "toy" / "labels.json").unlink()
    for folder in ("shots", "labels"):
        assert all(torch.equal(value, learned(first[0])[key]) for key, value in learned(tmp_path / folder).items())


def test_cached_run_is_close_and_repeats_its_bits(root, tmp_path, first):
    for name in ("one", "two"):
        run(root, tmp_path / name, TRAINER__PROMPTKD__CACHE=tmp_path / "cache")
    one, two = learned(tmp_path / "one"), learned(tmp_path / "two")
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert torch.allclose(one["vision"], learned(first[0])["vision"], atol=1e-2)
    assert len(list((tmp_path / "cache").glob("*.features"))) == 1


def test_cascade_trains_own_prompts_after_the_boosting_prompt(root, tmp_path, first):
    trained = run(root, tmp_path / "run", "CasPL_PromptKD")
    assert trained == train.run(["--eval-only", "--model-dir", str(tmp_path / "run")])
    assert not torch.equal(learned(tmp_path / "run")["vision"], learned(first[0])["vision"])


def test_run_loads_as_classifier_of_other_classes(first):
    loaded = classifier.load(first[0])
    assert loaded.class_names == toy.NAMES
    image = torch.randn(2, 3, 16, 16)
    assert torch.allclose(loaded.with_classes(toy.NAMES[3:])(image), loaded(image)[:, 3:], atol=1e-4)

"""What a run keeps: metrics.csv, predictions and a result of every evaluation, learned prompts as safetensors."""

import csv
import json

import pytest
import torch
import toy
from safetensors.torch import load_file

from trainers.cli import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs, a boosting prompt, and a run whose best epoch is chosen on the validation images."""
    root = tmp_path_factory.mktemp("records")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    train.run(toy.command(root, "CasPL", root / "CasPL", OPTIM__MAX_EPOCH=2))
    more = {"TRAINER__CASPL__CHECKPOINT": root / "CasPL", "OPTIM__MAX_EPOCH": 3, "TEST__FINAL_MODEL": "best_val"}
    train.run(toy.command(root, "CasPL_PromptSRC", root / "run", **more))
    return root


def rows(folder):
    with open(folder / "metrics.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_metrics_csv_has_loss_terms_rate_seconds_and_validation(root):
    table = rows(root / "run")
    expected = "epoch loss acc ce scl_text scl_image scl_logits learning_rate seconds validation".split()
    assert len(table) == 3 and list(table[0]) == expected and all(all(row.values()) for row in table)
    best = torch.load(root / "run" / "VLPromptLearner" / "model-best.pth.tar", weights_only=True)
    assert float(table[best["epoch"] - 1]["validation"]) == pytest.approx(best["val_result"])


def test_metrics_csv_of_phase_1_has_agreement(root):
    table = rows(root / "CasPL")
    assert [row["epoch"] for row in table] == ["1", "2"]
    assert list(table[0]) == ["epoch", "loss", "agreement", "learning_rate", "seconds"]


def test_learned_prompts_are_kept_as_safetensors_of_the_best_epoch(root):
    kept = load_file(root / "run" / "adapting.safetensors")
    state = torch.load(root / "run" / "VLPromptLearner" / "model-best.pth.tar", weights_only=True)["state_dict"]
    assert kept.keys() == state.keys() and all(torch.equal(kept[key], state[key]) for key in state)
    assert not (root / "CasPL" / "adapting.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "name", "images"),
    [
        ([], "Toy_all", 18),
        (["DATASET.SUBSAMPLE_CLASSES", "new"], "Toy_new", 9),
        (["TEST.SPLIT", "val"], "Toy_all_val", 12),
        (["--load-epoch", "3"], "Toy_all_epoch_3", 18),
    ],
)
def test_eval_only_keeps_predictions_and_a_result(root, options, name, images):
    folder = root / "run" / "evaluations" / name
    for path in folder.glob("*"):
        path.unlink()
    metrics = train.run(["--eval-only", "--model-dir", str(root / "run"), *options])
    with open(folder / "predictions.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    result = json.loads((folder / "evaluation.json").read_text())
    assert len(table) == images == result["images"] and result["metrics"] == dict(metrics)
    share = sum(row["label"] == row["class_1"] for row in table) / images
    assert 100 * share == pytest.approx(result["metrics"]["accuracy"])
    assert set(result["per_class"]) == {row["label"] for row in table}
    mean = sum(result["per_class"].values()) / len(result["per_class"])
    assert mean == pytest.approx(result["metrics"]["mean_per_class"])
    assert result["trainer"] == "CasPL_PromptSRC" and result["dataset"] == "Toy"


@pytest.mark.parametrize("trainer", ["ZeroshotCLIP", "CasPL"])
def test_eval_only_without_phase_2_keeps_them_in_the_output_folder(root, tmp_path, trainer):
    line = ["--eval-only", "--output-dir", str(tmp_path)]
    if trainer == "CasPL":
        train.run([*line, "--model-dir", str(root / "CasPL")])
    else:
        train.run(toy.command(root, trainer, tmp_path, "--eval-only"))
    (folder,) = (tmp_path / "evaluations").iterdir()
    assert {path.name for path in folder.iterdir()} == {"predictions.csv", "evaluation.json"}

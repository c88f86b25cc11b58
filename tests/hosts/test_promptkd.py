"""PromptKD: unlabelled training on all classes, evaluation on any, the teacher cache and the cascade."""

import csv
import gc
import json
import random
import shutil

import pytest
import torch
import toy
import versions
from safetensors.torch import load_file, save_file

from trainers.__main__ import main as caspl
from trainers.cli import train
from trainers.config import ConfigError
from trainers.deploy import bundle, classifier
from trainers.engine.precision import choose
from trainers.method import prompt_file
from trainers.method.teachers import load_teacher
from trainers.training.learned_file import read_learned
from trainers.training.trainer import PromptTrainer

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
        more = {"TRAINER__CASPL__CHECKPOINT": root, **more}
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
    entry = json.loads((tmp_path / "run" / "ledger.json").read_text())[-1]
    assert (entry["images"], entry["labels"], entry["class_names"]) == (24, False, toy.NAMES)
    assert classifier.load(tmp_path / "run").class_names == toy.NAMES


def test_run_loads_as_classifier_of_other_classes(first):
    loaded = classifier.load(first[0])
    assert loaded.class_names == toy.NAMES
    image = torch.randn(2, 3, 16, 16)
    assert torch.allclose(loaded.with_classes(toy.NAMES[3:])(image), loaded(image)[:, 3:], atol=1e-4)


@pytest.fixture
def alone(first, tmp_path, root):
    """The first run without its teacher's file, which comes back."""
    teacher = root / "teacher.pt"
    teacher.rename(tmp_path / "moved.pt")
    yield first
    (tmp_path / "moved.pt").rename(teacher)


def test_files_hold_the_class_vectors_of_all_classes_by_name(first, root):
    folder = first[0]
    teacher = load_teacher(str(root / "teacher.pt"), toy.NAMES, "a photo of a {}.", choose("fp32", torch.device("cpu")))
    vectors = teacher.class_features()
    tensors, described = read_learned(folder / "adapting.safetensors")
    checkpoint = torch.load(folder / "VLPromptLearner" / "model.pth.tar-1", weights_only=True)
    for names, found in (
        (described["class_names"], tensors["class_vectors"]),
        (checkpoint["class_names"], checkpoint["state_dict"]["class_vectors"]),
    ):
        assert names == toy.NAMES and torch.equal(found, vectors)
    assert described["format"] == 2 and {"vision", "projector.0.weight"} <= set(tensors)


def test_evaluation_needs_no_teacher(alone):
    folder, trained = alone
    assert train.run(["--eval-only", "--model-dir", str(folder)]) == trained
    new = train.run(
        ["--eval-only", "--model-dir", str(folder), "--load-epoch", "1", "DATASET.SUBSAMPLE_CLASSES", "new"]
    )
    assert 0 <= new["accuracy"] <= 100


def test_class_vectors_follow_names_not_positions(alone):
    loaded = classifier.load(alone[0])
    images = torch.randn(3, 3, 16, 16)
    backwards = loaded.with_classes(toy.NAMES[::-1])
    assert torch.allclose(backwards(images), loaded(images).flip(1), atol=1e-4)


def test_commands_on_a_run_need_no_teacher(alone, root, tmp_path):
    run = str(alone[0])
    for command in (
        ["predict", run, str(root / "toy"), "--csv", str(tmp_path / "p.csv"), "--classes", "sea", "tree"],
        ["embed", run, str(root / "toy"), "--out", str(tmp_path / "e.safetensors")],
        ["classifier", run, str(tmp_path / "c.safetensors")],
        ["report", run, str(tmp_path / "r.html")],
    ):
        assert caspl(command) == 0, command
    bundle.bundle(alone[0], tmp_path / "shared")
    shared = classifier.load(tmp_path / "shared", backbone=str(root / "student.pt"))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(shared(images), classifier.load(run)(images))


@versions.exports
@pytest.mark.slow
def test_export_needs_no_teacher(alone, tmp_path):
    assert caspl(["export", str(alone[0]), str(tmp_path / "m.pt2")]) == 0


def test_unknown_name_without_teacher_has_a_reason(alone):
    with pytest.raises(ConfigError, match="class vectors of 'a zebra', which the run does not keep"):
        classifier.load(alone[0]).with_classes(["sea", "a zebra"])


def test_unknown_name_is_computed_by_the_teacher(first, root):
    made = classifier.load(first[0]).with_classes(["a zebra", "sea"])
    teacher = load_teacher(
        str(root / "teacher.pt"), ["a zebra", "sea"], "a photo of a {}.", choose("fp32", torch.device("cpu"))
    )
    assert torch.equal(made.encode_text(), teacher.class_features())


def vocabularies():
    """Return the ids of all token embeddings in memory."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    return {id(each) for each in tensors if each.dim() == 2 and len(each) > 40_000}


def test_no_text_tower_at_test_time(alone):
    before = vocabularies()
    loaded = classifier.load(alone[0])
    names = {name for name, _ in [*loaded.named_parameters(), *loaded.named_buffers()]}
    of_layout = {f"model.layout.{name}" for name, _ in loaded.model.layout.named_buffers()}
    allowed = ("model.clip.visual.", "model.prompt_learner.")
    assert {name for name in names - of_layout if not name.startswith(allowed)} == {"model.clip.logit_scale"}
    assert vocabularies() <= before  # other tests may have kept some


def test_older_run_is_read_with_its_teacher_and_one_line(first, tmp_path, caplog):
    folder, trained = first
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    tensors = load_file(old / "adapting.safetensors")
    del tensors["class_vectors"]
    save_file(tensors, old / "adapting.safetensors")
    path = old / "VLPromptLearner" / "model.pth.tar-1"
    content = torch.load(path, weights_only=True)
    del content["class_names"], content["state_dict"]["class_vectors"]
    torch.save(content, path)
    with caplog.at_level("INFO"):
        assert train.run(["--eval-only", "--model-dir", str(old)])["accuracy"] == trained["accuracy"]
    assert caplog.text.count("has no class vectors (made by an earlier version)") == 1


def test_changed_class_vector_is_noticed(first, tmp_path, capsys):
    shutil.copytree(first[0], tmp_path / "run")
    path = tmp_path / "run" / "adapting.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert train.main(["--eval-only", "--model-dir", str(tmp_path / "run")]) == 2
    assert "adapting.safetensors: its values or metadata were changed" in capsys.readouterr().err


def test_training_with_kept_class_vectors_is_rejected(root, tmp_path, first):
    with pytest.raises(ConfigError, match="CLASS_VECTORS: .*; expected it to be empty in training"):
        run(root, tmp_path / "run", TRAINER__PROMPTKD__CLASS_VECTORS=first[0])


def test_epoch_is_selected_on_the_test_set_on_request_only(root, tmp_path, caplog):
    asked = {
        "TEST__FINAL_MODEL": "best_val",
        "TRAINER__PROMPTKD__SELECT_ON": "test",
        "OPTIM__MAX_EPOCH": 3,
        "OPTIM__LR": 0.01,
    }
    best = run(root, tmp_path / "run", **asked)
    assert "The epoch is selected on the test images" in caplog.text
    with open(tmp_path / "run" / "metrics.csv", newline="") as stream:
        tested = [float(row["validation"]) for row in csv.DictReader(stream)]
    assert best["accuracy"] == pytest.approx(max(tested)) and len(tested) == 3
    (entry,) = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert entry["labels"]


def test_both_phases_share_one_teacher_cache(root, tmp_path):
    cache, views = tmp_path / "cache", 2
    phase_1 = {
        "TRAINER__CASPL__TEACHER__BACKBONE": root / "teacher.pt",
        "TRAINER__CASPL__TEACHER__CACHE": cache,
        "TRAINER__CASPL__TEACHER__VIEWS": views,
    }
    train.run(toy.command(root, "CasPL", tmp_path / "boosting", **phase_1, OPTIM__MAX_EPOCH=2))
    (features,) = cache.glob("*.features")
    filled = features.read_bytes()
    own = {"TRAINER__PROMPTKD__CACHE": cache, "TRAINER__PROMPTKD__VIEWS": views, "OPTIM__MAX_EPOCH": 2}
    run(root, tmp_path / "run", "CasPL_PromptKD", **own, TRAINER__CASPL__CHECKPOINT=tmp_path / "boosting")
    assert [*cache.glob("*.features")] == [features] and features.read_bytes() == filled


@pytest.mark.parametrize("cached", [False, True])
def test_killed_run_resumes_to_the_same_bits(root, tmp_path, monkeypatch, cached):
    more = {"OPTIM__MAX_EPOCH": 2} | ({"TRAINER__PROMPTKD__CACHE": tmp_path / "cache"} if cached else {})
    with monkeypatch.context() as patch:
        patch.setattr("trainers.training.trainer.PromptTrainer.before_epoch", stop_at(1))
        with pytest.raises(KeyboardInterrupt):
            run(root, tmp_path / "killed", **more)
    resumed, whole = run(root, tmp_path / "killed", **more), run(root, tmp_path / "whole", **more)
    assert resumed == whole
    one, other = ((tmp_path / name / "adapting.safetensors").read_bytes() for name in ("killed", "whole"))
    assert one == other


def stop_at(epoch):
    """Return a `before_epoch` during which Ctrl-C is pressed."""
    before = PromptTrainer.before_epoch

    def before_epoch(trainer):
        if trainer.epoch == epoch:
            raise KeyboardInterrupt
        before(trainer)

    return before_epoch

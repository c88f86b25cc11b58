"""A run's identity: what differs is named, in the same folder, with --resume and --eval-only, and without config.yaml."""

import json
import shutil

import protocol
import pytest
import torch
import toy
from PIL import Image
from test_kill import stop_at

from trainers.cli import train
from trainers.cli.program import guarded
from trainers.config import ConfigError
from trainers.storage import fingerprints
from trainers.training import identity, resume, trainer
from trainers.training.checkpoints import load_learner


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a folder with images, CLIPs and a finished run of two epochs."""
    root = tmp_path_factory.mktemp("identity")
    protocol.prepare(root)
    train.run(line(root, root / "run"))
    return root


def line(root, folder, *flags, trainer="CoOp", **more):
    """Return a command line of two epochs."""
    return toy.command(root, trainer, folder, *flags, **{"OPTIM__MAX_EPOCH": 2} | more)


def error_of(capsys, words):
    """Run a command that must fail with exit code 2; return its error line."""
    capsys.readouterr()
    assert guarded(lambda: train.run([str(word) for word in words])) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ")
    return error[0]


def unfinished(root, folder, monkeypatch, **more):
    """Stop a run of three epochs after the first."""
    with monkeypatch.context() as patch:
        patch.setattr("trainers.training.trainer.PromptTrainer.before_epoch", stop_at(1))
        assert guarded(lambda: train.run(line(root, folder, OPTIM__MAX_EPOCH=3, **more))) == 130
    assert (folder / "progress.pt").is_file()


@pytest.fixture
def other_data(root, tmp_path):
    """Return a copy of the data with one image of another size."""
    shutil.copytree(root / "toy", tmp_path / "data" / "toy")
    Image.new("RGB", (30, 30)).save(tmp_path / "data" / "toy" / "train_0_0.png")
    return tmp_path / "data"


def test_identity_is_kept_with_run(root):
    content = identity.read(root / "run")
    assert content["data"]["classes"] == toy.NAMES and content["settings"]["OPTIM.MAX_EPOCH"] == 2
    checkpoint = torch.load(root / "run" / "prompt_learner" / "model.pth.tar-2", weights_only=True)
    assert json.loads(checkpoint["identity"]) == content and len(content["backbone"]) == 64


def test_identity_has_no_settings_of_other_trainers(root):
    nodes = {key.split(".")[1] for key in identity.read(root / "run")["settings"] if key.startswith("TRAINER.")}
    assert nodes == {"COOP"}


def test_moved_data_are_the_same_run(root, tmp_path):
    shutil.copytree(root, tmp_path / "moved")
    words = line(root, tmp_path / "moved" / "run")
    words[words.index("--root") + 1] = str(tmp_path / "moved")
    assert train.main(words) == 0


def test_other_data_are_named(root, other_data, tmp_path, capsys):
    shutil.copytree(root / "run", tmp_path / "run")
    words = line(root, tmp_path / "run")
    words[words.index("--root") + 1] = str(other_data)
    assert "run with other settings or data (data's fingerprint: " in error_of(capsys, words)


def test_other_backbone_is_named(root, tmp_path, capsys):
    shutil.copytree(root / "run", tmp_path / "run")
    toy.save_clip(tmp_path / "other.pt", seed=9)
    words = line(root, tmp_path / "run", MODEL__BACKBONE__NAME=root / "student.pt")
    words[words.index(str(root / "student.pt"))] = str(tmp_path / "other.pt")
    assert "other settings" in error_of(capsys, words)


def test_moved_backbone_is_the_same_run(root, tmp_path, capsys):
    shutil.copytree(root / "run", tmp_path / "run")
    shutil.copy(root / "student.pt", tmp_path / "moved.pt")
    words = line(root, tmp_path / "run", MODEL__BACKBONE__NAME=tmp_path / "moved.pt")
    assert train.main(words) == 0
    (tmp_path / "run" / "identity.json").unlink()  # as in version 0.1.0: the names are compared
    shutil.copy(root / "student.pt", tmp_path / "again.pt")
    error = error_of(capsys, line(root, tmp_path / "run", MODEL__BACKBONE__NAME=tmp_path / "again.pt"))
    assert "MODEL.BACKBONE.NAME: " in error


def test_moved_first_weights_are_the_same_run(root, tmp_path):
    first = shutil.copy(root / "run" / "prompt_learner" / "model.pth.tar-2", tmp_path / "first.tar")
    train.run(line(root, tmp_path / "run", MODEL__INIT_WEIGHTS=first))
    moved = shutil.move(first, tmp_path / "moved.tar")
    assert train.main(line(root, tmp_path / "run", MODEL__INIT_WEIGHTS=moved)) == 0


def test_other_first_weights_are_named(root, tmp_path, monkeypatch, capsys):
    first = shutil.copy(root / "run" / "prompt_learner" / "model.pth.tar-2", tmp_path / "first.tar")
    unfinished(root, tmp_path / "run", monkeypatch, MODEL__INIT_WEIGHTS=first)
    content = torch.load(first, weights_only=True)
    torch.save(content | {"state_dict": {key: value + 1 for key, value in content["state_dict"].items()}}, first)
    words = line(root, tmp_path / "run", OPTIM__MAX_EPOCH=3, MODEL__INIT_WEIGHTS=first)
    assert "first weights: " in error_of(capsys, words)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"OPTIM__MAX_EPOCH": 4}, "OPTIM.MAX_EPOCH: 2 -> 4"),
        ({"OPTIM__LR": 0.1}, "OPTIM.LR: 0.01 -> 0.1"),
        ({"SEED": 7}, "SEED: 1 -> 7"),
        ({"DATASET__SUBSAMPLE_CLASSES": "new"}, "data's classes: red_fox -> "),
        ({"trainer": "CoCoOp"}, "trainer: CoOp -> CoCoOp"),
    ],
)
def test_resume_of_other_run_is_rejected(root, tmp_path, capsys, more, key):
    error = error_of(capsys, line(root, tmp_path / "new", "--resume", str(root / "run"), **more))
    assert key in error and str(root / "run") in error
    assert not (tmp_path / "new" / "config.yaml").exists()


def test_resume_of_same_run_in_new_folder_works(root, tmp_path):
    assert train.main(line(root, tmp_path / "new", "--resume", str(root / "run"))) == 0


@pytest.mark.parametrize("lost", [(), ("config.yaml",), ("config.yaml", "identity.json")])
def test_progress_knows_its_run_without_config(root, tmp_path, monkeypatch, capsys, lost):
    unfinished(root, tmp_path / "run", monkeypatch)
    for name in ("config.yaml", "identity.json"):
        if name in lost:
            (tmp_path / "run" / name).unlink()
    if not lost:
        (tmp_path / "run" / "config.yaml").write_text("")
    assert "OPTIM.LR: 0.01 -> 0.5" in error_of(capsys, line(root, tmp_path / "run", OPTIM__MAX_EPOCH=3, OPTIM__LR=0.5))
    assert train.main(line(root, tmp_path / "run", OPTIM__MAX_EPOCH=3)) == 0


def test_unfinished_run_with_checkpoints_is_not_evaluated(root, tmp_path, monkeypatch, capsys):
    unfinished(root, tmp_path / "run", monkeypatch, TRAIN__CHECKPOINT_FREQ=1)
    assert (tmp_path / "run" / "prompt_learner" / "model.pth.tar-1").is_file()
    evaluation = ["--eval-only", "--model-dir", tmp_path / "run"]
    assert "is not finished" in error_of(capsys, evaluation)
    assert train.main([*map(str, evaluation), "--load-epoch", "1"]) == 0


def test_evaluation_with_other_settings_is_rejected(root, capsys):
    words = ["--eval-only", "--model-dir", root / "run", "TRAINER.COOP.CLASS_TOKEN_POSITION", "front"]
    assert "TRAINER.COOP.CLASS_TOKEN_POSITION: 'end' -> 'front'" in error_of(capsys, words)


def test_evaluation_with_config_file_is_compared_with_training(root, tmp_path, capsys):
    (tmp_path / "empty.yaml").write_text("")
    family = ["--config-file", str(tmp_path / "empty.yaml"), "--eval-only", "--model-dir"]
    assert train.main(line(root, tmp_path / "out", *family, str(root / "run"))) == 0
    words = line(root, tmp_path / "front", TRAINER__COOP__CLASS_TOKEN_POSITION="front", TRAINER__COOP__CTX_INIT="")
    train.run(words)
    error = error_of(capsys, line(root, tmp_path / "out", *family, str(tmp_path / "front")))
    assert "TRAINER.COOP.CLASS_TOKEN_POSITION: 'front' -> 'end'" in error
    error = error_of(capsys, line(root, tmp_path / "out", *family, str(root / "run"), trainer="CoCoOp"))
    assert "trainer: CoOp -> CoCoOp" in error


CSC = {"TRAINER__COOP__CSC": True, "TRAINER__COOP__CTX_INIT": ""}


def test_class_contexts_stay_with_their_classes(root, tmp_path, capsys):
    train.run(line(root, tmp_path / "run", DATASET__SUBSAMPLE_CLASSES="base", **CSC))
    evaluation = ["--eval-only", "--model-dir", tmp_path / "run"]
    assert train.main([*map(str, evaluation)]) == 0
    error = error_of(capsys, [*evaluation, "DATASET.SUBSAMPLE_CLASSES", "new"])
    assert "class-specific contexts (CSC) were trained for 3 classes" in error
    (tmp_path / "run" / "identity.json").unlink()  # ledger.json has the names too
    assert "class-specific" in error_of(capsys, [*evaluation, "DATASET.SUBSAMPLE_CLASSES", "new"])


def test_first_class_contexts_of_other_classes_are_rejected(root, tmp_path, capsys, caplog):
    train.run(line(root, tmp_path / "run", DATASET__SUBSAMPLE_CLASSES="base", **CSC))
    first = tmp_path / "run" / "prompt_learner" / "model.pth.tar-2"
    more = CSC | {"MODEL__INIT_WEIGHTS": first}
    error = error_of(capsys, line(root, tmp_path / "new", DATASET__SUBSAMPLE_CLASSES="new", **more))
    assert "MODEL.INIT_WEIGHTS: " in error and "red_fox" in error and not (tmp_path / "new").exists()
    assert train.main(line(root, tmp_path / "base", DATASET__SUBSAMPLE_CLASSES="base", **more)) == 0
    content = torch.load(first, weights_only=True)
    torch.save({key: value for key, value in content.items() if key != "identity"}, first)  # as in version 0.1.0
    assert train.main(line(root, tmp_path / "old", DATASET__SUBSAMPLE_CLASSES="new", **more)) == 0
    assert "does not record its classes" in caplog.text


def test_class_contexts_stay_with_their_classes_without_other_files(root, tmp_path, capsys):
    train.run(line(root, tmp_path / "run", DATASET__SUBSAMPLE_CLASSES="base", **CSC))
    for name in ("identity.json", "ledger.json"):
        (tmp_path / "run" / name).unlink()  # the checkpoint knows the classes
    evaluation = ["--eval-only", "--model-dir", tmp_path / "run"]
    assert "class-specific" in error_of(capsys, [*evaluation, "DATASET.SUBSAMPLE_CLASSES", "new"])
    assert train.main([*map(str, evaluation)]) == 0


def test_evaluation_on_images_that_are_not_normalised_is_rejected(root, capsys):
    words = ["--eval-only", "--model-dir", root / "run", "INPUT.TRANSFORMS", "('random_flip',)"]
    assert "INPUT.TRANSFORMS: ['random_flip', 'normalize'] -> ['random_flip']" in error_of(capsys, words)
    assert train.main([*map(str, words[:-1]), "('normalize',)"]) == 0


def test_class_contexts_are_found_by_name(root, tmp_path, monkeypatch, caplog):
    train.run(line(root, tmp_path / "run", **CSC))
    evaluation = ["--eval-only", "--model-dir", str(tmp_path / "run"), "OUTPUT_DIR", str(tmp_path / "run")]
    loaded = []
    monkeypatch.setattr(
        trainer, "load_learner", lambda learner, *more: loaded.append([load_learner(learner, *more), learner.ctx])
    )
    train.run(evaluation)
    train.run([*evaluation, "DATASET.SUBSAMPLE_CLASSES", "new"])
    (_, whole), (_, half) = loaded
    assert torch.equal(half, whole[3:]) and half.shape[0] == 3
    assert "contexts of 3 of the 6 trained classes, found by name" in caplog.text


def test_rows_of_class_contexts_follow_the_names(tmp_path):
    theirs = {"data": {"classes": ["cat", "dog", "elk"]}}
    assert identity.class_rows(["cat", "dog", "elk"], theirs, tmp_path) is None
    assert identity.class_rows(["elk", "cat", "dog"], theirs, tmp_path) == [2, 0, 1]
    for names, trained in ((["cat", "fox"], ["cat", "dog"]), (["elk", "cat"], ["cat", "elk", "cat"])):
        with pytest.raises(ConfigError, match="among them (fox|cat); expected classes that were trained"):
            identity.class_rows(names, {"data": {"classes": trained}}, tmp_path)


def test_best_val_without_validation_images_is_rejected(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(toy.PER_CLASS, "val", 0)
    for more, key in (({"TEST__FINAL_MODEL": "best_val"}, "TEST.FINAL_MODEL"), ({"TEST__SPLIT": "val"}, "TEST.SPLIT")):
        assert f"error: {key}: needs validation images" in error_of(capsys, line(root, tmp_path / "run", **more))
        assert not (tmp_path / "run").exists()


def test_failed_first_epoch_does_not_block_corrected_command(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("trainers.training.trainer.PromptTrainer.before_epoch", stop_at(0))
        assert guarded(lambda: train.run(line(root, tmp_path / "run"))) == 130
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert train.main(line(root, tmp_path / "run", OPTIM__LR=0.5)) == 0


@pytest.mark.parametrize("damage", ["", "{", "[]", "[" * 100_000, '{"digest": "0", "data": {"classes": []}}'])
def test_damaged_identity_is_named(root, tmp_path, capsys, damage):
    shutil.copytree(root / "run", tmp_path / "run")
    (tmp_path / "run" / "identity.json").write_text(damage)
    assert f"{tmp_path / 'run' / 'identity.json'}: " in error_of(capsys, line(root, tmp_path / "run"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("epochs", value) for value in ("two", None, True, 0, -1, 4, 10**30, 1.5)),
        *(("skipped", value) for value in ("0", -1)),
        *(("best_result", value) for value in ("best", None, float("nan"))),
        *(("random_state", value) for value in (None, {}, {"python": 1})),
        *(("_models", value) for value in (None, {}, {"prompt_learner": {"ctx": 1}})),
        *(("_optims", value) for value in ({}, {"prompt_learner": {"state": {}, "param_groups": [{"lr": "x"}]}})),
    ],
)
def test_progress_with_wrong_value_is_named(root, tmp_path, monkeypatch, capsys, key, value):
    unfinished(root, tmp_path / "run", monkeypatch)
    path = tmp_path / "run" / "progress.pt"
    content = torch.load(path, weights_only=True)
    torch.save(content | {key: value}, path)
    before = path.read_bytes()
    assert f"error: {path}: training cannot resume from it" in error_of(
        capsys, line(root, tmp_path / "run", OPTIM__MAX_EPOCH=3)
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("entries", [{}, {"verbose": False, "_is_initial": False, "decoupled_weight_decay": False}])
def test_progress_of_another_pytorch_resumes(root, tmp_path, monkeypatch, entries):
    """Some entries of an optimiser and a scheduler exist in some versions of PyTorch only."""

    def of_another(value):
        if isinstance(value, list):
            return [of_another(item) for item in value]
        if not isinstance(value, dict):
            return value
        kept = {key: of_another(item) for key, item in value.items() if key not in resume._OF_VERSIONS}
        return kept | (entries if "lr" in value or "last_epoch" in value else {})

    ends = []
    for folder in (tmp_path / "same", tmp_path / "other"):
        unfinished(root, folder, monkeypatch)
        path = folder / "progress.pt"
        if folder.name == "other":
            content = torch.load(path, weights_only=True)
            torch.save(content | {part: of_another(content[part]) for part in ("_optims", "_scheds")}, path)
        assert train.main(line(root, folder, OPTIM__MAX_EPOCH=3)) == 0
        ends.append(torch.load(folder / "prompt_learner" / "model.pth.tar-3", weights_only=True)["state_dict"])
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_fingerprint_of_large_file_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "LARGE", 10)
    path = tmp_path / "weights"
    path.write_bytes(bytes(20))
    first = fingerprints.file_fingerprint(path)
    monkeypatch.setattr(fingerprints, "sha256", lambda path: "f" * 64)
    assert fingerprints.file_fingerprint(path) == first
    path.write_bytes(bytes(21))
    assert fingerprints.file_fingerprint(path) == "f" * 64
    fingerprints.cache_file().write_text("[1")
    assert fingerprints.file_fingerprint(path) == "f" * 64

"""A finished run as the teacher: its logits, phase 1 with it, and runs that cannot be one."""

import shutil

import pytest
import torch
import toy

from trainers.cli import train
from trainers.config import ConfigError
from trainers.deploy import classifier
from trainers.engine.precision import Precision
from trainers.method import prompt_file
from trainers.method.teachers import MEANS, load_teacher, load_teachers

BASE = {"DATASET__SUBSAMPLE_CLASSES": "base"}
PLAIN = Precision("fp32")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Toy pictures and CLIPs, and runs on the base classes."""
    root = tmp_path_factory.mktemp("run_teacher")
    toy.draw(root / "toy")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    group = prompt_file.PromptGroup(torch.randn(2, 3, 64) * 0.02, torch.randn(2, 3, 128) * 0.02)
    prompt_file.save_boosting(root / prompt_file.FILE_NAME, group, prompt_file.BoostingInfo())
    large = BASE | {"MODEL__BACKBONE__NAME": root / "teacher.pt"}
    large |= {"TRAINER__PROMPTSRC__PROMPT_DEPTH_TEXT": 2, "TRAINER__PROMPTSRC__PROMPT_DEPTH_VISION": 2}
    train.run(toy.command(root, "PromptSRC", root / "PromptSRC", **large))
    train.run(toy.command(root, "CasPL_MaPLe", root / "CasPL_MaPLe", TRAINER__CASPL__CHECKPOINT=root, **large))
    train.run(toy.command(root, "CoCoOp", root / "CoCoOp", **BASE))
    train.run(toy.command(root, "CoOp", root / "CSC", TRAINER__COOP__CSC=True, **BASE))
    return root


@pytest.mark.parametrize("run", ["PromptSRC", "CasPL_MaPLe"])
def test_logits_match_the_run_on_all_classes(root, run):
    teacher = load_teacher(f"run:{root / run}", toy.NAMES, "unused {}", PLAIN)
    expected = classifier.load(root / run).with_classes(toy.NAMES)
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(teacher(image), expected(image))
    assert teacher.size == 16 and not any(parameter.requires_grad for parameter in teacher.parameters())


def test_loading_leaves_random_state_unchanged(root):
    torch.manual_seed(5)
    load_teacher(f"run:{root / 'PromptSRC'}", toy.NAMES, "{}", PLAIN)
    drawn = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(2))


def test_phase_1_learns_from_a_run_and_records_it(root, tmp_path):
    identities = set()
    for run in ("PromptSRC", "CasPL_MaPLe"):
        name = f"run:{root / run}"
        folder, cache = tmp_path / run, tmp_path / "cache" / run
        more = {"TRAINER__CASPL__TEACHER__BACKBONE": name, "TRAINER__CASPL__TEACHER__CACHE": cache}
        train.run(toy.command(root, "CasPL", folder, **more))
        info = prompt_file.read_info(folder / prompt_file.FILE_NAME)
        assert info.teacher == name and len(info.teacher_weights) == 64
        assert len(list(cache.glob("*.features"))) == 1
        identities.add(info.identity)
    assert len(identities) == 2


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("CoCoOp", "cannot be a teacher.*depend on the image"),
        ("CSC", "cannot be a teacher.*belongs to single classes"),
    ],
)
def test_run_without_class_vectors_for_any_class_is_rejected(root, run, message):
    with pytest.raises(ConfigError, match=message):
        load_teacher(f"run:{root / run}", toy.NAMES, "{}", PLAIN)


def test_missing_run_is_rejected(root):
    with pytest.raises(FileNotFoundError, match="nowhere.*expected the folder of a finished run"):
        load_teacher(f"run:{root / 'nowhere'}", toy.NAMES, "{}", PLAIN)


def test_tcp_run_makes_class_tokens_of_other_classes(root):
    more = BASE | {"TRAINER__TCP__LAYER": 2, "TRAINER__TCP__PREC": "fp32", "OPTIM__NAME": "adam"}
    train.run(toy.command(root, "TCP", root / "TCP", **more))
    loaded = classifier.load(root / "TCP")
    other = loaded.with_classes(toy.NAMES)
    image = torch.randn(2, 3, 16, 16)
    assert other.model.prompt_learner.class_tokens().shape == (len(toy.NAMES), 4, 64)
    assert torch.allclose(other(image)[:, :3], loaded(image), atol=1e-4)  # the base classes are the first three


@pytest.mark.parametrize("mean", MEANS)
def test_ensemble_averages_probabilities(root, mean):
    names = [f"run:{root / 'PromptSRC'}", f"run:{root / 'CasPL_MaPLe'}", str(root / "student.pt")]
    each = [load_teacher(name, toy.NAMES, "a {}", PLAIN) for name in names]
    ensemble = load_teachers(names, mean, toy.NAMES, "a {}", PLAIN)
    image = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        features = torch.cat([teacher.image_features(image) for teacher in each], dim=1)
        probabilities = [teacher(image).softmax(dim=1) for teacher in each]
        found = ensemble.logits(features).softmax(dim=1)
    weights = [p.amax(dim=1, keepdim=True) if mean == "confidence" else torch.ones(5, 1) for p in probabilities]
    total = sum(weights)
    expected = sum(w / total * p for w, p in zip(weights, probabilities, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_phase_1_learns_from_several_teachers_with_a_cache_each(root, tmp_path):
    runs = repr([str(root / "PromptSRC"), str(root / "teacher.pt")])
    identities = set()
    for mean in MEANS:
        pairs = ["TRAINER.CASPL.TEACHER.RUNS", runs, "TRAINER.CASPL.TEACHER.MEAN", mean]
        line = toy.command(root, "CasPL", tmp_path / mean, TRAINER__CASPL__TEACHER__CACHE=tmp_path / "cache")
        train.run([*line, *pairs])
        info = prompt_file.read_info(tmp_path / mean / prompt_file.FILE_NAME)
        assert info.teacher == f"run:{root / 'PromptSRC'} and {root / 'teacher.pt'}"
        identities.add(info.identity)
    assert len(identities) == 2 and len(list((tmp_path / "cache").glob("*.features"))) == 2
    one = toy.command(root, "CasPL", tmp_path / "one", TRAINER__CASPL__TEACHER__CACHE=tmp_path / "cache")
    train.run(one)  # the file of teacher.pt is shared with runs that it teaches alone
    assert len(list((tmp_path / "cache").glob("*.features"))) == 2


def test_run_and_runs_together_are_rejected(root, tmp_path, capsys):
    line = toy.command(root, "CasPL", tmp_path / "run")
    pairs = [
        "TRAINER.CASPL.TEACHER.RUN",
        str(root / "PromptSRC"),
        "TRAINER.CASPL.TEACHER.RUNS",
        str(root / "PromptSRC"),
    ]
    assert train.main([*line, *pairs]) == 2
    assert "TRAINER.CASPL.TEACHER.RUN" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("run", ["-1", "nowhere", "run:nowhere", "local-dir:nowhere"])
def test_missing_run_is_rejected_by_key(root, tmp_path, capsys, run):
    line = toy.command(root, "CasPL", tmp_path / "run")
    assert train.main([*line, "TRAINER.CASPL.TEACHER.RUN", run]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: TRAINER.CASPL.TEACHER.RUN: {run}; expected the folder of a finished run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["{root}/PromptSRC"], "are the same teacher; expected each once"),
        (["run:PromptSRC/../PromptSRC"], "are the same teacher; expected each once"),
        (["copy"], "are the same teacher; expected each once"),
        (["~/PromptSRC"], "are the same teacher; expected each once"),
        (["{root}/teacher.pt", "teacher.pt"], "are the same teacher; expected each once"),
        (["hf-hub:a/b", "hf-hub:a/b"], "are the same teacher; expected each once"),
        (["toy"], "TEACHER.RUNS: toy; expected the folder of a finished run"),
        ([""], "TEACHER.RUNS: ''; expected the folder of a finished run"),
        ([" "], "TEACHER.RUNS: ' '; expected the folder of a finished run"),
        (["~"], "TEACHER.RUNS: ~; expected the folder of a finished run"),
        (["run:nowhere"], "TEACHER.RUNS: run:nowhere; expected the folder of a finished run"),
    ],
)
def test_list_of_teachers_is_checked(root, tmp_path, capsys, others, message, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root if others != ["~"] else tmp_path))
    if others == ["copy"]:
        shutil.copytree(root / "PromptSRC", tmp_path / "copy")
        others = [str(tmp_path / "copy")]
    names = [str(root / "PromptSRC"), *(other.format(root=root) for other in others)]
    pairs = ["TRAINER.CASPL.TEACHER.RUNS", repr(names)]
    assert train.main([*toy.command(root, "CasPL", tmp_path / "run"), *pairs]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["RUN", "RUNS"])
def test_moved_run_is_the_same_teacher(root, tmp_path, capsys, key):
    first, other = (shutil.copytree(root / run, tmp_path / run) for run in ("PromptSRC", "CasPL_MaPLe"))
    line = [*toy.command(root, "CasPL", tmp_path / "run"), f"TRAINER.CASPL.TEACHER.{key}"]
    train.run([*line, str(first)])
    moved = shutil.move(first, tmp_path / "moved")
    assert train.main([*line, str(moved)]) == 0
    assert train.main([*line, str(other)]) == 2
    assert f"TRAINER.CASPL.TEACHER.{key}: " in capsys.readouterr().err


def test_key_of_a_run_equals_its_prefix(root, tmp_path):
    line = toy.command(root, "CasPL", tmp_path / "key")
    train.run([*line, "TRAINER.CASPL.TEACHER.RUN", str(root / "PromptSRC")])
    more = {"TRAINER__CASPL__TEACHER__BACKBONE": f"run:{root / 'PromptSRC'}"}
    train.run(toy.command(root, "CasPL", tmp_path / "prefix", **more))
    files = [tmp_path / name / prompt_file.FILE_NAME for name in ("key", "prefix")]
    assert files[0].read_bytes() == files[1].read_bytes()

"""`reproduce teachers`: the published recipe, its plan, and a teacher that phase 1 learns from."""

import pytest
import versions

from trainers.cli import protocols
from trainers.experiments import cost, teachers
from trainers.experiments.protocols import ELEVEN
from trainers.experiments.setting import Setting


@pytest.mark.parametrize("protocol", ["base2new", "few_shot"])
def test_recipe_is_the_published_one(protocol, tmp_path):
    setting = Setting("imagenet", tmp_path, tmp_path, protocol=protocol, teachers=True)
    cfg = setting.configuration("PromptSRC", 1, tmp_path)
    node = cfg.TRAINER.PROMPTSRC
    assert (cfg.MODEL.BACKBONE.NAME, cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH) == (
        "ViT-L/14",
        "sgd",
        0.005,
        20,
    )
    assert (cfg.DATALOADER.TRAIN_X.BATCH_SIZE, node.GPA_MEAN, node.GPA_STD) == (8, 15, 1)
    assert (node.N_CTX_TEXT, node.N_CTX_VISION, node.PROMPT_DEPTH_TEXT, node.PROMPT_DEPTH_VISION) == (4, 4, 9, 9)
    assert (node.TEXT_LOSS_WEIGHT, node.IMAGE_LOSS_WEIGHT, node.CTX_INIT) == (25, 10, "a photo of a")


def test_plan_has_a_teacher_for_each_dataset_and_one_for_transfer(tmp_path):
    setting = Setting("", tmp_path, tmp_path, teachers=True)
    jobs = [job for plan in teachers.plans(None, None, False) for job in plan.jobs(setting)]
    assert [(job.setting.protocol, job.setting.dataset) for job in jobs] == [
        *(("base2new", dataset) for dataset in ELEVEN),
        ("few_shot", "imagenet"),
    ]
    assert all((job.trainer, job.seed, job.shots, job.needs) == ("PromptSRC", 1, 16, None) for job in jobs)


@versions.counts_operations
def test_dry_run_lists_the_teachers_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost, "costs", lambda *args: [])  # counting ViT-L/14's operations takes half a minute
    line = ["teachers", "--dry-run", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    assert protocols.main("reproduce", [*line, "--datasets", "dtd", "eurosat"]) == 0
    out = capsys.readouterr().out
    for dataset in ("dtd", "eurosat"):
        assert str(tmp_path / f"out/teachers/base2new/{dataset}/PromptSRC/shots_16/seed_1") in out
    assert "phase 1" not in out and "few_shot" not in out and not any(tmp_path.iterdir())


@pytest.mark.parametrize("unread", [["--hosts", "coop"], ["--shots", "4"], ["--boost", "SEED", "1"]])
def test_unread_argument_is_named(tmp_path, capsys, unread):
    assert protocols.main("reproduce", ["teachers", "--output", str(tmp_path), *unread]) == 2
    assert f"{unread[0]}: not read by reproduce teachers" in capsys.readouterr().err


@pytest.mark.slow
def test_teacher_is_trained_and_taught_from(tmp_path, capsys):
    folders = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    line = ["teachers", "--miniature", "--datasets", "shapes", "--cluster", "none", *folders, "OPTIM.MAX_EPOCH", "1"]
    assert protocols.main("reproduce", [*line, "TRAINER.PROMPTSRC.GPA_MEAN", "1"]) == 0
    out = capsys.readouterr().out
    runs = [line.split()[-1] for line in out.splitlines() if line.startswith("TRAINER.CASPL.TEACHER.RUN ")]
    assert len(runs) == 2 and "PromptSRC" in out
    setting = Setting("shapes", tmp_path / "data", tmp_path / "out", boost_options=["OPTIM.MAX_EPOCH", "1"])
    setting.boost_options += ["TRAINER.CASPL.TEACHER.RUN", runs[0]]
    from trainers.experiments.runs import boost

    assert boost(setting).is_file()

"""Costs without data or weights, and dry runs that write nothing."""

import shutil

import pytest
import torch
import versions

from trainers.backbones import load_clip, sizes_of, weightless
from trainers.cli import boost, cost, protocols, train
from trainers.engine import clip_sizes
from trainers.experiments import cost as counting
from trainers.experiments.setting import Setting

pytestmark = versions.counts_operations

FAST = ["OPTIM.MAX_EPOCH", "1", "--boost", "OPTIM.MAX_EPOCH", "1"]
BACKBONES = (
    "MODEL.BACKBONE.NAME shapes-student TRAINER.CASPL.TEACHER.BACKBONE shapes-teacher INPUT.SIZE (48,48)".split()
)
DEPTHS = "TRAINER.CASPL.DEPTH_TEXT 2 TRAINER.CASPL.DEPTH_VISION 3".split()


def setting(tmp_path, dataset="oxford_pets", *options, protocol="base2new"):
    """Return a setting whose data do not exist."""
    return Setting(dataset, tmp_path / "no data", tmp_path / "out", list(options), protocol)


def small(tmp_path, dataset="oxford_pets", *options, protocol="base2new"):
    """Return a setting with the embedded CLIPs."""
    return setting(tmp_path, dataset, *BACKBONES, *DEPTHS, *options, protocol=protocol)


def test_steps_and_images_are_those_of_the_recipe(tmp_path):
    training, evaluation = counting.phase_1(small(tmp_path))
    assert (training.steps, training.images) == (20 * 2944 // 4, 20 * 2944)
    assert evaluation.images == 3669
    training, evaluation = counting.costs(small(tmp_path), "CasPL_CoOp", 1, 16)
    assert (training.steps, training.images) == (
        50 * (19 * 16 // 32),
        50 * 9 * 32,
    )  # 19 base classes; no partial batches
    assert evaluation.images == 3669


@pytest.mark.slow
def test_few_shot_and_transfer_are_tested_on_their_sets(tmp_path):
    few = counting.costs(small(tmp_path, protocol="few_shot"), "CoOp", 1, 1)
    assert few[0].images == 200 * 32 and few[1].images == 3669
    transfer = counting.costs(small(tmp_path, "shapes", protocol="cross_dataset"), "CoOp", 1, 16)
    assert "7 test sets" in transfer[1].name and transfer[1].images == 36 * 60 + 24 * 20 + 8 * 40 + 4 * 36 * 15


@pytest.mark.slow
def test_costs_grow_with_what_they_depend_on(tmp_path):
    one, other = (counting.costs(small(tmp_path), "CasPL_CoOp", 1, shots)[0] for shots in (2, 16))
    assert other.operations > 4 * one.operations and other.disk == one.disk
    cached = ("--boost", "TRAINER.CASPL.TEACHER.CACHE", str(tmp_path / "cache"), "TRAINER.CASPL.TEACHER.VIEWS", "1")
    with_cache = counting.phase_1(small(tmp_path, "oxford_pets", *cached[1:]))[0]
    without = counting.phase_1(small(tmp_path))[0]
    assert with_cache.operations < without.operations and with_cache.disk > without.disk + 2944 * 2


@pytest.mark.slow
def test_hosts_and_seeds_share_image_features(tmp_path):
    """Test images pass once through a frozen image tower, and each time where a host learns in it."""
    known, alone = set(), counting.costs(small(tmp_path), "CoOp", 1, 16)[1]
    first, again = (counting.costs(small(tmp_path), "CoOp", seed, 16, known=known)[1] for seed in (1, 2))
    assert first == alone and first.images == 3669 and again.images == 0
    assert 0 < again.operations < first.operations / 2 and again.disk < first.disk
    assert again.steps == first.steps and again.memory == first.memory
    boosted = counting.costs(small(tmp_path), "CasPL_CoOp", 1, 16, known=known)[1]
    assert boosted.images == 3669 and counting.costs(small(tmp_path), "CasPL", known=known)[0].images == 0
    for _ in range(2):
        shallow = small(tmp_path, "oxford_pets", "TRAINER.MAPLE.PROMPT_DEPTH", "2")
        assert counting.costs(shallow, "MaPLe", 1, 16, known=known)[1].images == 3669
    unkept = small(tmp_path, "oxford_pets", "TEST.FEATURES", "")
    assert counting.costs(unkept, "CoOp", 1, 16, known=known)[1].images == 3669


@pytest.mark.slow
def test_phase_2_without_few_shot_draw_counts_all_images(tmp_path):
    own = "TRAINER.PROMPTKD.PROMPT_DEPTH_VISION 3 TRAINER.PROMPTKD.TEACHER shapes-teacher".split()
    training = counting.costs(small(tmp_path, "oxford_pets", *own), "PromptKD", 1, 16)[0]
    assert training.images > 16 * 37 * 20 and training.images % 8 == 0


def test_published_sizes_need_no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.backbones.openai.read_backbone", pytest.fail)
    with weightless():
        model = load_clip("ViT-B/32")
    assert clip_sizes(model) == sizes_of("ViT-B/32") and model.visual.conv1.kernel_size == (32, 32)
    training, _ = counting.costs(setting(tmp_path), "CasPL_CoOp", 1, 16)
    assert training.operations > 1e14 and training.memory > 2 * 150e6  # 150 million weights in float16
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_measured_rate_is_of_this_device(tmp_path):
    training, evaluation = counting.costs(small(tmp_path, "oxford_pets", *FAST[:2]), "CoOp", 1, 1, measured=True)
    assert 1e7 < training.rate < 1e15 and evaluation.rate > 0
    assert counting.total([training, evaluation]).hours(0) == pytest.approx(training.hours(0) + evaluation.hours(0))


def test_cost_prints_hours_only_with_a_rate(tmp_path, capsys):
    line = ["dtd", "--host", "coop", "--output", str(tmp_path), *BACKBONES, *DEPTHS]
    assert cost.main(line) == 0
    out = capsys.readouterr().out
    assert "phase 1: CasPL" in out and "hours" not in out.splitlines()[0] and "--rate" in out
    assert cost.main([*line, "--rate", "10", "--protocol", "few-shot"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("hours")


def test_unpublished_sizes_are_read_from_the_data(tmp_path, capsys):
    assert cost.main(["image_folder", "--data", str(tmp_path / "nowhere"), *BACKBONES, *DEPTHS]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder with a finished base2new run on the embedded forms."""
    root = tmp_path_factory.mktemp("dry")
    assert protocols.main("base2new", [*_line(root), *FAST]) == 0
    return root


def _line(root, *more):
    return ["shapes_forms", "1", "--host", "coop", "--data", str(root / "data"), "--output", str(root / "out"), *more]


def files(root):
    """Return all files with their times."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_dry_run_names_folders_states_and_cost(tmp_path, capsys):
    assert protocols.main("base2new", [*_line(tmp_path), "--baseline", "--dry-run", *FAST]) == 0
    out = capsys.readouterr().out
    assert out.count("\nnew ") == 5 and f"-> {tmp_path / 'out/boosting/shapes_forms'}" in out
    assert (
        "would be rendered" in out and "5 jobs: 0 finished, 0 blocked, 5 to run" in out and "phase 2: CasPL_CoOp" in out
    )
    assert not list(tmp_path.iterdir())


def test_dry_run_tells_finished_from_new_and_blocked(finished, capsys):
    before = files(finished)
    assert protocols.main("base2new", [*_line(finished), "--dry-run", *FAST]) == 0
    assert "2 jobs: 2 finished" in capsys.readouterr().out
    assert protocols.main("base2new", [*_line(finished), "--dry-run", *FAST, "--adapt", "OPTIM.LR", "0.01"]) == 0
    assert "blocked" in capsys.readouterr().out
    grid = ["base2new", "--datasets", "shapes_forms", "--hosts", "coop", "--seeds", "1", "2", *_line(finished)[4:]]
    assert protocols.main("reproduce", [*grid, "--dry-run", *FAST]) == 0
    out = capsys.readouterr().out
    assert "7 jobs: 2 finished, 0 blocked, 5 to run" in out
    assert files(finished) == before


def test_dry_run_of_an_unfinished_run_would_resume(finished, tmp_path, capsys):
    shutil.copytree(finished / "out", tmp_path / "out")
    run = tmp_path / "out/base2new/shapes_forms/CasPL_CoOp/shots_16/seed_1"
    (run / "result.json").unlink()
    line = ["--dry-run", *FAST, "--data", str(finished / "data")]
    assert protocols.main("base2new", [*_line(tmp_path), *line]) == 0
    assert "unfinished base2new shapes_forms CasPL_CoOp" in capsys.readouterr().out


def test_boost_and_train_have_dry_runs(tmp_path, capsys):
    assert boost.main(["shapes_forms", "--data", str(tmp_path), "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "1 jobs" in capsys.readouterr().out
    files = [
        "--config-file",
        "configs/trainers/CoOp/shapes.yaml",
        "--dataset-config-file",
        "configs/datasets/shapes.yaml",
    ]
    line = [*files, "--trainer", "CoOp", "--root", str(tmp_path), "--output-dir", str(tmp_path / "run")]
    assert train.main([*line, "--dry-run", "--rate", "1"]) == 0
    out = capsys.readouterr().out
    assert f"train CoOp on Shapes -> {tmp_path / 'run'}" in out and "hours" in out
    assert not list(tmp_path.iterdir())


def test_rate_without_dry_run_is_rejected(tmp_path, capsys):
    assert protocols.main("base2new", [*_line(tmp_path), "--rate", "1"]) == 2
    assert "--dry-run" in capsys.readouterr().err
    assert torch.get_default_dtype() == torch.float32


@versions.counts_operations
def test_features_of_training_images_are_counted_once(tmp_path):
    """PromptSRC's frozen features are kept; those of a host with a frozen image tower only with TRAIN.VIEWS."""
    depths = "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT 2 TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION 3".split()
    of_source = small(tmp_path, "oxford_pets", *depths)
    known = set()
    first, again = (counting.costs(of_source, "PromptSRC", 1, 2, known=known)[0] for _ in range(2))
    assert again.operations < first.operations and again.disk < first.disk and again.images == first.images
    other_seed = counting.costs(of_source, "PromptSRC", 2, 2, known=known)[0]
    assert other_seed == first
    plain = counting.costs(small(tmp_path), "CoOp", 1, 2, known=known)[0]
    views = small(tmp_path, "oxford_pets", "TRAIN.VIEWS", "2")
    few, none = (counting.costs(views, "CoOp", 1, 2, known=known)[0] for _ in range(2))
    assert plain.images > few.images == 2 * 19 * 2 > none.images == 0
    assert plain.operations > few.operations > none.operations > 0

"""Image features of a frozen tower are computed once, change no bit of a result, and are kept for the right runs only."""

import errno
import logging
import os

import protocol
import pytest
import torch
import toy
import versions
from dassl.engine import build_trainer
from dassl.utils import set_random_seed

from trainers.cli import train
from trainers.engine import model as engine_model
from trainers.engine.precision import Precision, cast_clip
from trainers.experiments import cost, dry_run, grid
from trainers.experiments.protocols import PAPER_HOSTS, Scope
from trainers.experiments.sizes import Size
from trainers.hosts import zeroshot
from trainers.hosts.promptsrc import SelfRegulatedModel
from trainers.training import dataset, features, parallel
from trainers.training.trainer import PromptTrainer

TEXT_ONLY = ("ZeroshotCLIP", "CoOp", "CoCoOp", "KgCoOp", "CasPL_CoOp", "CasPL_CoCoOp")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images, CLIPs and a boosting prompt."""
    root = tmp_path_factory.mktemp("features")
    protocol.prepare(root)
    train.run(toy.command(root, "CasPL", root / "boost"))
    return root


def build(root, trainer, folder, **more):
    """Build a trainer on the toys."""
    if trainer.startswith("CasPL_"):
        more["TRAINER__CASPL__CHECKPOINT"] = root / "boost"
    if trainer == "KgCoOp":
        more["TRAINER__KGCOOP__PREC"] = "fp32"
    more = {"DATALOADER__TEST__BATCH_SIZE": 4} | more
    cfg = train.setup_cfg(train.parse(toy.command(root, trainer, folder, **more)))
    set_random_seed(1)
    return build_trainer(cfg)


@pytest.fixture
def passes(monkeypatch):
    """The number of images of each batch of an evaluation that the image tower saw."""
    seen, testing, encode, test = [], [], engine_model.encode_image, PromptTrainer.test

    def counting(visual, image, stacks):
        if testing:
            seen.append(len(image))
        return encode(visual, image, stacks)

    def tested(trainer, split=None):
        testing.append(split)
        try:
            return test(trainer, split)
        finally:
            testing.pop()

    monkeypatch.setattr(engine_model, "encode_image", counting)
    monkeypatch.setattr(PromptTrainer, "test", tested)
    return seen


@pytest.fixture
def evaluated(monkeypatch):
    """The logits of each batch of an evaluation."""
    seen, process = [], parallel.GatheringEvaluator.process

    def spied(self, output, label):
        seen.append(output)
        process(self, output, label)

    monkeypatch.setattr(parallel.GatheringEvaluator, "process", spied)
    return seen


def logits(trainer, evaluated):
    """Evaluate; return the logits."""
    evaluated.clear()
    trainer.test()
    return torch.cat(evaluated)


@pytest.mark.parametrize("trainer", TEXT_ONLY)
def test_evaluation_has_same_bits_with_new_and_existing_cache(root, tmp_path, trainer, passes, evaluated, monkeypatch):
    expected = logits(build(root, trainer, tmp_path), evaluated)
    passes.clear()
    cached = build(root, trainer, tmp_path, TEST__FEATURES=tmp_path / "kept")
    assert torch.equal(logits(cached, evaluated), expected) and sum(passes) == 18
    passes.clear()
    monkeypatch.setattr(dataset, "decoded", lambda item: pytest.fail(f"{item.impath} was decoded"))
    assert torch.equal(logits(cached, evaluated), expected) and not passes


def test_hosts_and_seeds_share_features(root, tmp_path, passes):
    more = {"TEST__FEATURES": tmp_path / "kept"}
    for trainer in ("ZeroshotCLIP", "CoOp", "CoCoOp"):
        build(root, trainer, tmp_path, SEED=len(trainer), **more).test()
    boosted = build(root, "CasPL", root / "boost", **more)
    boosted.load_model(str(root / "boost"))
    boosted.test()
    for trainer in ("CasPL_CoOp", "CasPL_CoCoOp"):
        build(root, trainer, tmp_path, SEED=len(trainer), **more).test()
    assert sum(passes) == 2 * 18 and len(list((tmp_path / "kept").glob("*.features"))) == 2


@pytest.mark.parametrize("trainer", ["MaPLe", "PromptSRC", "CasPL_MaPLe"])
def test_learned_image_tower_is_not_cached(root, tmp_path, trainer):
    build(root, trainer, tmp_path, TEST__FEATURES=tmp_path / "kept").test()
    assert not (tmp_path / "kept").exists()


def test_boosting_prompt_in_training_is_not_cached(root, tmp_path):
    trainer = build(root, "CasPL", tmp_path, TEST__FEATURES=tmp_path / "kept", TEST__FINAL_MODEL="best_val")
    trainer.train()
    assert len(list((tmp_path / "kept").glob("*.features"))) == 1  # of the final test


def test_key_depends_on_tower_images_and_settings(root, tmp_path):
    def key(trainer="CoOp", **more):
        built = build(root, trainer, tmp_path, **{"TEST__FEATURES": tmp_path / "kept"} | more)
        return features.test_cache(built, built.test_loader).key

    other = toy.save_clip(tmp_path / "other.pt", seed=9)
    keys = [key(), key("CasPL_CoOp")]
    for more in (
        {"MODEL__BACKBONE__NAME": other},
        {"DATALOADER__TEST__BATCH_SIZE": 5},
        {"INPUT__TRANSFORMS": "('random_flip',)"},
        {"INPUT__INTERPOLATION": "bicubic"},
        {"INPUT__PIXEL_MEAN": "[0.1, 0.2, 0.3]"},
        {"DATASET__SUBSAMPLE_CLASSES": "new"},
        {"TRAINER__COOP__PREC": "amp"},
    ):
        keys.append(key(**more))
    picture = root / "toy" / "test_0_0.png"
    status = picture.stat()
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == key("ZeroshotCLIP") == key(SEED=7, OPTIM__LR=1, TRAINER__COOP__N_CTX=2)


def test_features_keep_computed_dtype(root, tmp_path):
    trainer = build(root, "CoOp", tmp_path, TEST__FEATURES=tmp_path / "kept")
    cast_clip(trainer.model.clip, torch.bfloat16)
    trainer.test()
    cache = features.test_cache(trainer, trainer.test_loader)
    assert cache.dtype == torch.bfloat16 and cache.complete()
    assert cache.features(torch.tensor([3]), 0, pytest.fail).dtype == torch.bfloat16


def test_unusable_folder_is_one_warning(root, tmp_path, monkeypatch, caplog, evaluated):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = build(root, "CoOp", tmp_path, TEST__FEATURES=tmp_path / "kept")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with caplog.at_level(logging.WARNING):
        logits(trainer, evaluated)
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Image features")]
    assert "No space left" in line and "TEST.FEATURES" in line


def test_damaged_row_is_computed_again(root, tmp_path, evaluated, passes):
    trainer = build(root, "CoOp", tmp_path, TEST__FEATURES=tmp_path / "kept")
    expected = logits(trainer, evaluated)
    cache = features.test_cache(trainer, trainer.test_loader)
    cache.rows["features"][6, 0] = 0
    passes.clear()
    assert torch.equal(logits(trainer, evaluated), expected)
    assert passes == [4]  # its batch


def learned(trainer):
    """Train; return what was learned."""
    trainer.train()
    return trainer._models[trainer.get_model_names()[0]].state_dict()


def test_frozen_features_of_promptsrc_are_shared_by_its_cascade(root, tmp_path, monkeypatch):
    seen, encode = [], SelfRegulatedModel.frozen_encode
    monkeypatch.setattr(
        SelfRegulatedModel, "frozen_encode", lambda self, image: (seen.append(len(image)), encode(self, image))[1]
    )
    more = {"OPTIM__MAX_EPOCH": 2, "TEST__NO_TEST": True}
    plain = learned(build(root, "PromptSRC", tmp_path / "plain", **more))
    assert sum(seen) == 2 * 24
    seen.clear()
    more["TRAIN__FEATURES"] = tmp_path / "kept"
    cached = learned(build(root, "PromptSRC", tmp_path / "cached", **more))
    assert sum(seen) == 2 * 24
    seen.clear()
    learned(build(root, "CasPL_PromptSRC", tmp_path / "cascaded", **more))
    assert not seen
    assert all(torch.equal(plain[key], cached[key]) for key in plain)


def test_training_features_of_text_only_host_are_computed_once_per_view(root, tmp_path, monkeypatch):
    seen, encode = [], engine_model.encode_image
    monkeypatch.setattr(
        engine_model, "encode_image", lambda v, image, s: (seen.append(len(image)), encode(v, image, s))[1]
    )
    more = {"OPTIM__MAX_EPOCH": 4, "TEST__NO_TEST": True, "TRAIN__VIEWS": 2}
    plain = learned(build(root, "CoOp", tmp_path / "plain", **more))
    assert sum(seen) == 4 * 24
    seen.clear()
    cached = learned(build(root, "CoOp", tmp_path / "cached", TRAIN__FEATURES=tmp_path / "kept", **more))
    assert sum(seen) <= 3 * 24  # two views; batches are drawn again, and a batch with a missing image is computed
    torch.testing.assert_close(plain, cached)
    assert not torch.equal(
        plain["ctx"], learned(build(root, "CoOp", tmp_path / "more", **more | {"TRAIN__VIEWS": 0}))["ctx"]
    )


@versions.counts_operations
@pytest.mark.slow
def test_base_to_new_grid_needs_56_percent_of_image_passes(root, tmp_path, passes, evaluated, monkeypatch):
    setting = protocol.ToySetting("toy", root, tmp_path / "out", epochs=1)
    jobs = [grid.Job(setting, trainer) for trainer in (grid.BOOST, "ZeroshotCLIP", "CasPL")]
    scope = Scope(("toy",), hosts=PAPER_HOSTS)
    for host in scope.hosts:
        for seed in scope.seeds:
            jobs += [grid.Job(setting, trainer, seed, 2) for trainer in (host, f"CasPL_{host}")]
    monkeypatch.setattr(zeroshot, "choose", lambda name, device: Precision("fp32"))  # on `meta`, too
    monkeypatch.setattr(cost, "_size", lambda setting, dataset="": Size(6, 24, 18))
    known = set()
    parts = [part for job in jobs for part in dry_run.planned(job, known=known).parts]
    for job in jobs:
        job()
    assert sum(passes) <= 0.56 * sum(map(len, evaluated)), sum(passes) / sum(map(len, evaluated))
    assert sum(passes) == sum(part.images for part in parts if part.name.startswith("evaluation"))

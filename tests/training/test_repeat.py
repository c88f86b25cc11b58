"""The same seed gives the same bits: in one process or two, whatever the number of data workers."""

import json
import os
import random
import subprocess
import sys
import time

import children
import numpy as np
import protocol
import pytest
import torch
import toy
from dassl.engine import build_trainer
from test_kill import assert_same

from trainers.cli import train
from trainers.training import rng as randomness

AUGMENTED = {
    "INPUT__TRANSFORMS": "('random_resized_crop', 'random_flip', 'colorjitter', 'randomgrayscale', 'normalize')"
}
FINAL = {"CasPL": "CasPL/model.pth.tar-2", "CoCoOp": "prompt_learner/model.pth.tar-2"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs, and a run of each trainer to compare with."""
    root = tmp_path_factory.mktemp("repeat")
    protocol.prepare(root)
    for trainer in FINAL:
        train.run(line(root, trainer, root / trainer))
    return root


def line(root, trainer, folder, *flags, **more):
    """Two epochs with all kinds of augmentation."""
    return toy.command(root, trainer, folder, *flags, OPTIM__MAX_EPOCH=2, **AUGMENTED | more)


def final(root, trainer, folder):
    """Both final checkpoints."""
    return [torch.load(run / FINAL[trainer], weights_only=True) for run in (folder, root / trainer)]


@pytest.mark.parametrize("trainer", FINAL)
def test_same_seed_repeats_in_one_process(root, tmp_path, trainer):
    train.run(line(root, trainer, tmp_path / "run"))
    assert_same(*final(root, trainer, tmp_path / "run"))


def test_other_seed_changes_bits(root, tmp_path):
    train.run([*line(root, "CasPL", tmp_path / "run"), "SEED", "2"])
    ours, theirs = final(root, "CasPL", tmp_path / "run")
    assert not torch.equal(ours["state_dict"]["text"], theirs["state_dict"]["text"])


def test_same_seed_repeats_in_other_process(root, tmp_path):
    script = "import json, sys, trainers, toy; from trainers.cli import train; train.run(json.loads(sys.argv[1]))"
    arguments = json.dumps([str(item) for item in line(root, "CoCoOp", tmp_path / "run")])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": children.PATH}
    subprocess.run([sys.executable, "-c", script, arguments], check=True, capture_output=True, env=environment)
    assert_same(*final(root, "CoCoOp", tmp_path / "run"))


@pytest.mark.parametrize("trainer", FINAL)
def test_identity_does_not_depend_on_the_order_of_imports(root, trainer):
    settings = json.loads(final(root, trainer, root / trainer)[0]["identity"])["settings"]
    assert len(settings) > 10 and list(settings) == sorted(settings)


@pytest.mark.parametrize("trainer", FINAL)
def test_four_data_workers_match_none(root, tmp_path, trainer):
    train.run(line(root, trainer, tmp_path / "run", DATALOADER__NUM_WORKERS=4))
    assert_same(*final(root, trainer, tmp_path / "run"))


def test_augmentation_differs_by_epoch_and_seed(root, tmp_path):
    def image(epoch, seed):
        cfg = train.setup_cfg(train.parse(line(root, "CasPL", tmp_path / "run", SEED=seed)))
        loader = build_trainer(cfg).train_loader_x
        loader.dataset.epoch = epoch
        return loader.dataset[3]["img"]

    first = image(0, 1)
    assert torch.equal(first, image(0, 1))
    assert not torch.equal(first, image(1, 1)) and not torch.equal(first, image(0, 2))


def test_drawing_from_restores_rng_state():
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    randomness.set_rng_state(before := randomness.get_rng_state())
    expected = draws()
    randomness.set_rng_state(before)
    with randomness.drawing_from(1, 2, 3):
        inside = draws()
    assert draws() == expected
    with randomness.drawing_from(1, 2, 3):
        assert draws() == inside
    with randomness.drawing_from(1, 2, 4):
        assert all(one != other for one, other in zip(draws(), inside, strict=True))


def test_deterministic_configures_pytorch(root, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        train.run(line(root, "CasPL", tmp_path / "run", "--deterministic"))
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert_same(*final(root, "CasPL", tmp_path / "run"))


def test_seeded_augmentation_costs_under_a_millisecond():
    start = time.process_time()
    for index in range(100):
        with randomness.drawing_from(1, 2, index):
            pass
    assert time.process_time() - start < 0.1  # a millisecond an image would be too much: decoding takes several

"""Data loading: kept images give the same bits, workers suit the machine, and a run says how long it waited."""

import logging
import re
from types import SimpleNamespace

import protocol
import pytest
import torch
import toy
from dassl.data import data_manager
from dassl.engine import build_trainer
from test_repeat import AUGMENTED

from trainers.cli import train
from trainers.config import ConfigError
from trainers.training import loaders as loading


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures and CLIPs."""
    root = tmp_path_factory.mktemp("loader")
    protocol.prepare(root)
    return root


def loader(root, workers):
    """The training loader of phase 1 on the toys, with many augmentations."""
    line = toy.command(root, "CasPL", root / "run", DATALOADER__NUM_WORKERS=workers, **AUGMENTED)
    return build_trainer(train.setup_cfg(train.parse(line))).train_loader_x


def images(loader, epoch):
    """All images of an epoch."""
    loader.dataset.epoch = epoch
    torch.manual_seed(epoch)
    return torch.cat([batch["img"] for batch in loader])


@pytest.mark.parametrize("workers", [0, 4])
def test_kept_images_give_the_bits_of_decoding_anew(root, workers, monkeypatch):
    expected = [images(loader(root, 0), epoch) for epoch in (0, 1)]
    kept = loading.keeping(loader(root, workers), choose=False)
    assert len(kept.dataset.kept) == 24 and kept.num_workers == workers
    monkeypatch.setattr(data_manager, "read_image", lambda path: pytest.fail(f"{path} was read again"))
    for epoch in (0, 1):
        assert torch.equal(images(kept, epoch), expected[epoch])
    assert not torch.equal(*expected)


@pytest.mark.parametrize(("free", "kept"), [(24 * 1200 / loading.SHARE_OF_MEMORY + 1, 24), (24 * 1200, 0), (None, 0)])
def test_images_are_kept_if_they_fit_into_the_share_of_memory(root, monkeypatch, free, kept):
    monkeypatch.setattr(loading, "free_bytes", lambda device: free)
    assert len(loading.keeping(loader(root, 0), choose=True).dataset.kept) == kept


@pytest.mark.parametrize(("wanted", "cores", "expected"), [(-1, 1, 0), (-1, 4, 3), (-1, 64, 8), (0, 64, 0), (5, 2, 5)])
def test_workers_chosen_for_the_machine(monkeypatch, wanted, cores, expected):
    monkeypatch.setattr(loading, "cores", lambda: cores)
    assert loading.workers(wanted) == expected


def test_a_senseless_number_of_workers():
    with pytest.raises(ConfigError, match="DATALOADER.NUM_WORKERS is -2, expected 0 or more, or -1"):
        loading.workers(-2)


@pytest.mark.parametrize(("small", "workers"), [(loading.SMALL, 0), (10, 3)])
def test_small_kept_images_need_no_workers(root, monkeypatch, small, workers):
    monkeypatch.setattr(loading, "cores", lambda: 4)
    monkeypatch.setattr(loading, "SMALL", small)
    chosen = loader(root, -1)
    assert chosen.num_workers == 3
    assert loading.keeping(chosen, choose=True).num_workers == workers


def test_waiting_is_measured(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(loading, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    watched = loading.Watched([{"img": 1}, {"img": 2}], torch.device("cpu"))
    assert list(watched) == [{"img": 1}, {"img": 2}] and len(watched) == 2
    assert watched.waited == 3  # one tick for each batch, one to see that there are no more


def test_a_run_says_how_long_it_waited(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train.run(toy.command(root, "CoOp", tmp_path / "run", OPTIM__MAX_EPOCH=2))
    said = re.findall(r"Waited for data: ([\d.]+)% of the (epoch|training)'s", caplog.text)
    assert [what for _, what in said] == ["epoch", "epoch", "training"]
    assert all(0 < float(share) < 100 for share, _ in said)
    assert "24 images are kept decoded" in caplog.text

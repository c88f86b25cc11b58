"""Data loading: kept images give the same bits, workers suit the machine, test sets are complete, waiting is measured."""

import logging
import re
from types import SimpleNamespace

import protocol
import pytest
import torch
import toy
from dassl.engine import build_trainer
from test_repeat import AUGMENTED

from trainers.cli import train
from trainers.config import ConfigError
from trainers.training import dataset, loaders, parallel


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a folder with images and CLIPs."""
    root = tmp_path_factory.mktemp("loader")
    protocol.prepare(root)
    return root


def loader(root, workers):
    """Return phase 1's training loader of the toys, with many augmentations."""
    line = toy.command(root, "CasPL", root / "run", DATALOADER__NUM_WORKERS=workers, **AUGMENTED)
    return build_trainer(train.setup_cfg(train.parse(line))).train_loader_x


def images(loader, epoch):
    """Return all images of an epoch."""
    loader.dataset.epoch = epoch
    torch.manual_seed(epoch)
    return torch.cat([batch["img"] for batch in loader])


@pytest.mark.parametrize("workers", [0, 4])
def test_kept_images_are_bit_identical_to_decoded(root, workers, monkeypatch):
    expected = [images(loader(root, 0), epoch) for epoch in (0, 1)]
    kept = loaders.keeping(loader(root, workers), choose=False)
    assert len(kept.dataset.kept) == 24 and kept.num_workers == workers
    monkeypatch.setattr(dataset, "decoded", lambda item: pytest.fail(f"{item.impath} was decoded again"))
    for epoch in (0, 1):
        assert torch.equal(images(kept, epoch), expected[epoch])
    assert not torch.equal(*expected)


@pytest.mark.parametrize(("free", "kept"), [(24 * 1200 / dataset.SHARE_OF_MEMORY + 1, 24), (24 * 1200, 0), (None, 0)])
def test_images_are_kept_within_share_of_memory(root, monkeypatch, free, kept):
    monkeypatch.setattr(dataset, "free_bytes", lambda device: free)
    assert len(loaders.keeping(loader(root, 0), choose=True).dataset.kept) == kept


def test_item_decodes_itself(root):
    data = loader(root, 0).dataset
    expected, item = data[0]["img"], data.data_source[0]
    blue = dataset.decoded(data.data_source[-1])
    data.data_source = [SimpleNamespace(**vars(item), impath=item.impath, read=lambda: blue, label=0, domain=0)]
    assert not torch.equal(data[0]["img"], expected)


@pytest.mark.parametrize(("wanted", "cores", "expected"), [(-1, 1, 0), (-1, 4, 3), (-1, 64, 8), (0, 64, 0), (5, 2, 5)])
def test_workers_suit_machine(monkeypatch, wanted, cores, expected):
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    assert loaders.workers(wanted) == expected


def test_negative_workers_raise():
    with pytest.raises(ConfigError, match="DATALOADER.NUM_WORKERS: -2; expected 0 or more, or -1"):
        loaders.workers(-2)


@pytest.mark.parametrize(("small", "workers"), [(loaders.SMALL, 0), (10, 3)])
def test_small_kept_images_need_no_workers(root, monkeypatch, small, workers):
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    monkeypatch.setattr(loaders, "SMALL", small)
    chosen = loader(root, -1)
    assert chosen.num_workers == 3
    assert loaders.keeping(chosen, choose=True).num_workers == workers


def test_keeping_works_without_fork(root, monkeypatch):
    monkeypatch.setattr(loaders.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    kept = loaders.keeping(loader(root, 2), choose=False)
    assert kept.multiprocessing_context is None and len(kept.dataset.kept) == 24


@pytest.mark.parametrize("sampler", ["SeqDomainSampler", "RandomDomainSampler", "RandomClassSampler", "RandomSampler"])
def test_other_test_samplers_are_rejected(root, sampler):
    line = toy.command(root, "CoOp", root / "run", DATALOADER__TEST__SAMPLER=sampler)
    with pytest.raises(
        ConfigError, match=rf"DATALOADER\.TEST\.SAMPLER: '{sampler}'; expected one of 'SequentialSampler'"
    ):
        train.setup_cfg(train.parse(line))


def test_timed_loader_measures_waiting(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(loaders, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    timed = loaders.TimedLoader([{"img": 1}, {"img": 2}], torch.device("cpu"))
    assert list(timed) == [{"img": 1}, {"img": 2}] and len(timed) == 2
    assert timed.waited == 3  # one tick per batch, and one at the end


def test_run_logs_waiting_and_kept_images(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train.run(toy.command(root, "CoOp", tmp_path / "run", OPTIM__MAX_EPOCH=2))
    waits = re.findall(r"Waited for data: ([\d.]+)% of the (epoch|training)'s", caplog.text)
    assert [what for _, what in waits] == ["epoch", "epoch", "training"]
    assert all(0 < float(share) < 100 for share, _ in waits)
    assert "Kept 24 decoded images" in caplog.text

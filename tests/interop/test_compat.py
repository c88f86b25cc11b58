"""Patches of the real Dassl for a current PyTorch, on a few lines written as Dassl's are."""

import importlib
import logging
import sys
import types

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from trainers.plugin import compat


def dassls_warmup():
    """Return a warm-up scheduler that passes `verbose`."""

    class Base(LRScheduler):
        def __init__(self, optimizer, successor, warmup_epoch, last_epoch=-1, verbose=False):
            self.successor, self.warmup_epoch = successor, warmup_epoch
            super().__init__(optimizer, last_epoch, verbose)

        def step(self, epoch=None):
            if self.last_epoch >= self.warmup_epoch:
                self.successor.step(epoch)
                self._last_lr = self.successor.get_last_lr()
            else:
                super().step(epoch)

    class Constant(Base):
        def get_lr(self):
            return self.successor.get_last_lr() if self.last_epoch >= self.warmup_epoch else [1e-5]

    return Base, Constant


def dassls_torchtools():
    """Return a module whose function was imported before the patch."""
    module = types.ModuleType("torchtools")
    exec("import torch\ndef load_checkpoint(path):\n    return torch.load(path, map_location='cpu')\n", vars(module))
    return module, module.load_checkpoint


def schedule(kind):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    return optimizer, kind(optimizer, CosineAnnealingLR(optimizer, 6.0), 1)


def run(optimizer, scheduler, epochs):
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.fixture
def patched():
    base, constant = dassls_warmup()
    torchtools, load_checkpoint = dassls_torchtools()
    compat.patch_warmup(base)
    compat.patch_checkpoints(base, torchtools)
    return constant, load_checkpoint


@pytest.mark.skipif(torch.__version__ < (2, 6), reason="this PyTorch has verbose schedulers")
def test_unpatched_schedulers_fail():
    with pytest.raises(TypeError):
        schedule(dassls_warmup()[1])


@pytest.mark.parametrize("stop", [1, 3])
def test_schedule_resumes_from_checkpoint(patched, tmp_path, stop):
    constant, load_checkpoint = patched
    whole = run(*schedule(constant), 6)
    assert whole[:2] == [1e-5, 0.1] and whole == sorted(whole[1:] + whole[:1], reverse=True)[-1:] + whole[1:]
    optimizer, scheduler = schedule(constant)
    first = run(optimizer, scheduler, stop)
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, tmp_path / "file")
    optimizer, scheduler = schedule(constant)
    state = load_checkpoint(tmp_path / "file")
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    assert first + run(optimizer, scheduler, 6 - stop) == whole


class Dangerous:
    """Writes a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_objects_in_older_checkpoints_are_not_loaded(patched, tmp_path):
    constant, load_checkpoint = patched
    saved = {"state_dict": {"ctx": torch.arange(3.0)}, "epoch": 7}
    torch.save(saved | {"scheduler": {"last_epoch": 1, "successor": Dangerous(tmp_path / "trace")}}, tmp_path / "file")
    found = load_checkpoint(tmp_path / "file")
    assert torch.equal(found["state_dict"]["ctx"], saved["state_dict"]["ctx"]) and found["epoch"] == 7
    with pytest.raises(ValueError, match="can be evaluated, but not resumed"):
        schedule(constant)[1].load_state_dict(found["scheduler"])
    assert not (tmp_path / "trace").exists()


def test_log_is_printed_only_without_other_handlers(capsys, monkeypatch):
    record = logging.LogRecord("caspl", logging.INFO, "", 0, "written to %s", ("here",), None)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    compat._PrintingHandler().handle(record)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    compat._PrintingHandler().handle(record)
    assert capsys.readouterr().out == "written to here\n"


def test_missing_wilds_is_skipped(monkeypatch):
    name = "dassl.data.datasets.dg.wilds"
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]
    compat.skip_wilds()
    assert vars(importlib.import_module(name)).keys() <= vars(types.ModuleType("")).keys()


def test_log_disabled_by_wilds_is_enabled_again(monkeypatch):
    monkeypatch.setitem(sys.modules, "dassl.data.datasets.dg.wilds", types.ModuleType("wilds"))
    logging.disable(logging.WARNING)
    try:
        compat.skip_wilds()
        assert logging.root.manager.disable == logging.NOTSET
    finally:
        logging.disable(logging.NOTSET)


def test_log_of_package_is_shown_once():
    package = logging.getLogger("trainers")
    before = [handler for handler in package.handlers if not isinstance(handler, compat._PrintingHandler)]
    compat.show_log()
    compat.show_log()
    assert len(package.handlers) == len(before) + 1

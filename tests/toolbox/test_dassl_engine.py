"""Whole training runs of small trainers on the substitute: hooks, files, resuming, progress."""

import logging
import sys

import dassl
import pytest
import torch
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer, TrainerBase, TrainerX, bar, build_trainer
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint, set_random_seed
from test_dassl_data import pictures_cfg
from torch import nn
from torch.nn import functional as F

if not dassl.__version__.endswith("+standin"):
    pytest.skip("the real Dassl is installed: the substitute is not in use", allow_module_level=True)


class Learning:
    """A linear model with dropout and a record of its steps, for the trainers of this file."""

    fail_after = None  # epochs until the run is interrupted

    def build_model(self):
        self.events, self.steps, self.results = [], [], []
        body = [nn.Flatten(), nn.Dropout(0.2), nn.Linear(3 * 8 * 8, self.num_classes)]
        self.model = nn.Sequential(*body).to(self.device)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("net", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        assert self.model.training
        image, label = self.parse_batch_train(batch)[:2]
        loss = F.cross_entropy(self.model(image), label)
        self.model_backward_and_update(loss)
        self.steps.append((self.epoch, self.batch_idx, self.get_current_lr(), loss.item()))
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}

    def after_epoch(self):
        super().after_epoch()
        if self.epoch + 1 == self.fail_after:
            raise KeyboardInterrupt

    def test(self, split=None):
        self.results.append(super().test(split))
        return self.results[-1]


@TRAINER_REGISTRY.register()
class DasslTestX(Learning, TrainerX):
    pass


def run_cfg(tmp_path, trainer="DasslTestX", out="out", **values):
    cfg = pictures_cfg(tmp_path)
    cfg.TRAINER.NAME, cfg.OUTPUT_DIR = trainer, str(tmp_path / out)
    cfg.OPTIM.merge_from_list(["NAME", "sgd", "LR", 0.05, "LR_SCHEDULER", "cosine", "MAX_EPOCH", 4])
    cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_TYPE = 1, "constant"
    cfg.merge_from_list([item for key, value in values.items() for item in (key.replace("__", "."), value)])
    return cfg


def run(cfg, seed=1, fail_after=None):
    """Return a trainer that has trained, until the interruption if there is one."""
    set_random_seed(seed)
    trainer = build_trainer(cfg)
    trainer.fail_after = fail_after
    if fail_after is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    return trainer


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def same_weights(one, other):
    return identical(one.state_dict(), other.state_dict())


def identical(one, other):
    """Return whether two nested structures of plain data and tensors are bit-identical."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other


def test_hooks_run_in_order(tmp_path, monkeypatch):
    events = []
    hooks = [
        "before_train",
        "before_epoch",
        "run_epoch",
        "forward_backward",
        "after_epoch",
        "after_train",
        "test",
    ]
    for name in hooks:
        original = getattr(DasslTestX, name)

        def spy(self, *args, _name=name, _original=original, **kwargs):
            events.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(DasslTestX, name, spy)
    trainer = run(run_cfg(tmp_path, OPTIM__MAX_EPOCH=2))
    epoch = ["before_epoch", "run_epoch", *["forward_backward"] * 3, "after_epoch"]
    assert events == ["before_train", *epoch, *epoch, "after_train", "test"]
    assert [step[:2] for step in trainer.steps] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert (trainer.num_batches, trainer.batch_idx, trainer.epoch, trainer.max_epoch) == (3, 2, 1, 2)
    assert trainer.start_epoch == 0 and trainer.time_start > 0
    assert trainer.lab2cname == trainer.dm.lab2cname and trainer.train_loader_x is trainer.dm.train_loader_x


def test_training_learns_and_writes_dassl_checkpoints(tmp_path):
    trainer = run(run_cfg(tmp_path, OPTIM__MAX_EPOCH=12, TRAIN__CHECKPOINT_FREQ=8))
    assert trainer.results == [100.0] and trainer.steps[-1][3] < trainer.steps[0][3] / 2
    assert files(tmp_path / "out" / "net") == ["checkpoint", "model.pth.tar-12", "model.pth.tar-8"]
    assert (tmp_path / "out" / "net" / "checkpoint").read_text() == "model.pth.tar-12\n"
    saved = load_checkpoint(tmp_path / "out" / "net" / "model.pth.tar-12")
    assert {"state_dict", "epoch", "optimizer", "scheduler", "val_result"} <= set(saved)
    assert saved["epoch"] == 12 and saved["val_result"] is None
    assert torch.equal(saved["state_dict"]["2.weight"], trainer.model[2].weight)
    rates = [step[2] for step in trainer.steps[::3]]
    assert rates[:2] == [1e-5, 0.05] and rates[1:] == sorted(rates[1:], reverse=True)


@pytest.mark.parametrize("final", ["best_val", "last_step"])
def test_resumed_run_continues_weights_optimiser_and_schedule(tmp_path, final):
    whole = run(run_cfg(tmp_path, out="whole", TEST__FINAL_MODEL=final))
    cfg = run_cfg(tmp_path, out="parts", TEST__FINAL_MODEL=final, TRAIN__CHECKPOINT_FREQ=1)
    first = run(cfg, fail_after=2)
    second = build_trainer(cfg)
    second.before_train()
    assert second.start_epoch == 2
    assert same_weights(second.model, first.model)
    assert identical(second.optim.state_dict(), first.optim.state_dict())
    second.train()
    assert [step[:3] for step in first.steps + second.steps] == [step[:3] for step in whole.steps]
    elsewhere = run_cfg(tmp_path, out="elsewhere", RESUME=str(tmp_path / "parts"))
    assert run(elsewhere).steps == []  # all epochs are finished: it only tests


def test_best_model_is_deployed(tmp_path, monkeypatch):
    """With best_val, the best epoch's weights are saved and deployed, also after an interruption."""
    values = {"TEST__FINAL_MODEL": "best_val", "TRAIN__CHECKPOINT_FREQ": 1}
    scores = iter([10.0, 30.0, 20.0, 30.0, 55.0])
    monkeypatch.setattr(DasslTestX, "test", lambda self, split=None: next(scores))
    best = tmp_path / "out" / "net" / "model-best.pth.tar"
    first = run(run_cfg(tmp_path, **values), fail_after=3)
    assert first.best_result == 30.0
    kept = load_checkpoint(best)
    assert (kept["epoch"], kept["val_result"]) == (2, 30.0)
    second = run(run_cfg(tmp_path, **values))
    assert [step[0] for step in second.steps] == [3, 3, 3]
    assert load_checkpoint(best)["epoch"] == 2  # 30 does not exceed the first part's best
    assert torch.equal(second.model[2].weight, kept["state_dict"]["2.weight"])  # deployed
    assert (tmp_path / "out" / "net" / "checkpoint").read_text() == "model.pth.tar-4\n"


def test_load_model(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trained = run(run_cfg(tmp_path))
    fresh = build_trainer(run_cfg(tmp_path, out="other"))
    assert not same_weights(fresh.model, trained.model)
    with pytest.raises(FileNotFoundError, match="model-best.pth.tar: .* contains checkpoint, model.pth.tar-4"):
        fresh.load_model(str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="tar-2: .*model.pth.tar-4"):
        fresh.load_model(str(tmp_path / "out"), epoch=2)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fresh.load_model(str(tmp_path / "nowhere"), epoch=4)
    fresh.load_model(str(tmp_path / "out"), epoch=4)
    assert same_weights(fresh.model, trained.model) and fresh.test() == trained.results[-1]
    before = fresh.model[2].weight.clone()
    fresh.load_model("")
    assert torch.equal(fresh.model[2].weight, before) and "skipped" in caplog.text


def test_load_model_of_another_shape(tmp_path):
    run(run_cfg(tmp_path))
    fresh = build_trainer(run_cfg(tmp_path, out="other"))
    fresh._models["net"] = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(5, 3), nn.Linear(1, 1))
    with pytest.raises(RuntimeError) as error:
        fresh.load_model(str(tmp_path / "out"), epoch=4)
    message = str(error.value)
    assert "model.pth.tar-4 does not fit Sequential" in message
    assert "2 missing in the file: 3.weight, 3.bias" in message
    assert "1 of another shape: 2.weight (3, 192), model (3, 5)" in message


def test_resume_errors(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"RESUME has no checkpoints of \['net'\]: .*is empty"):
        run(run_cfg(tmp_path, RESUME=str(empty)))
    (tmp_path / "out" / "net").mkdir(parents=True)
    (tmp_path / "out" / "net" / "model.pth.tar-3").touch()
    with pytest.raises(FileNotFoundError, match="checkpoint is missing"):
        run(run_cfg(tmp_path))


def test_resume_rejects_models_of_different_epochs(tmp_path):
    trainer = TrainerBase()
    trainer.register_model("a", nn.Linear(1, 1))
    trainer.register_model("b", nn.Linear(1, 1))
    assert trainer.resume_model_if_exist(tmp_path) == 0
    trainer.save_model(4, tmp_path)
    assert trainer.resume_model_if_exist(tmp_path) == 5
    trainer.register_model("c", nn.Linear(1, 1))
    assert trainer.resume_model_if_exist(tmp_path) == 0  # one has no checkpoint
    del trainer._models["c"]
    del trainer._models["b"]
    trainer.save_model(5, tmp_path)
    trainer._models["b"] = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="different epochs, {'a': 6, 'b': 5}"):
        trainer.resume_model_if_exist(tmp_path)


def test_registered_models():
    trainer = TrainerBase()
    models = {name: nn.Linear(1, 1) for name in ("a", "b")}
    for name, model in models.items():
        trainer.register_model(name, model, torch.optim.SGD(model.parameters(), lr=0.5))
    trainer.set_model_mode("eval", "a")
    assert not models["a"].training and models["b"].training
    loss = sum(model.weight.sum() for model in models.values())
    before = {name: model.weight.item() for name, model in models.items()}
    trainer.model_backward_and_update(loss, names="b")
    assert models["a"].weight.item() == before["a"]
    assert models["b"].weight.item() == pytest.approx(before["b"] - 0.5)
    with pytest.raises(ValueError, match="'a' is already registered"):
        trainer.register_model("a", models["a"])
    with pytest.raises(ValueError, match=r"no model is called 'c'; registered: \['a', 'b'\]"):
        trainer.get_model_names("c")
    with pytest.raises(ValueError, match="mode: 'training'; expected"):
        trainer.set_model_mode("training")
    with pytest.raises(AttributeError, match="before super"):
        TrainerBase.__new__(TrainerBase).register_model("a", models["a"])


def test_non_finite_loss_names_epoch_and_batch(tmp_path):
    trainer = TrainerBase()
    trainer.detect_anomaly(torch.tensor(1.0))
    trainer.epoch, trainer.batch_idx = 2, 0
    with pytest.raises(FloatingPointError, match=r"the loss is nan \(epoch 3, batch_idx 1\)"):
        trainer.model_backward(torch.tensor(float("nan")))


def test_training_without_model_or_batches_raises(tmp_path):
    with pytest.raises(NotImplementedError, match="SimpleTrainer must define build_model"):
        SimpleTrainer(run_cfg(tmp_path))
    trainer = build_trainer(run_cfg(tmp_path))
    trainer.train_loader_x = []
    with pytest.raises(RuntimeError, match="the training loader has no batch"):
        trainer.train()
    with pytest.raises(ValueError, match='did you mean "DasslTestX'):
        build_trainer(run_cfg(tmp_path, "DasslTest"))


# The log of a run


def lines(caplog, start):
    return [message for message in caplog.messages if message.startswith(start)]


def test_log_has_one_line_per_epoch(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run(run_cfg(tmp_path, TRAIN__PRINT_FREQ=1))
    told = lines(caplog, "epoch [")
    assert [line.split(" time")[0] for line in told] == [f"epoch [{i}/4] batch [3/3]" for i in (1, 2, 3, 4)]
    assert all(" loss " in line and " lr " in line and " eta 0:00:0" in line for line in told)
    assert "Finish training" in caplog.messages and "Evaluate on the *test* set" in caplog.messages


def test_log_has_batch_lines_without_a_terminal(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(bar, "SECONDS_BETWEEN_LINES", 0.0)
    run(run_cfg(tmp_path, TRAIN__PRINT_FREQ=2, OPTIM__MAX_EPOCH=1))
    batches = [line.split("] time")[0].split("batch [")[1] for line in lines(caplog, "epoch [")]
    assert batches == ["2/3", "3/3"]
    assert [line.split("]")[0] for line in lines(caplog, "evaluate test [")] == [
        f"evaluate test [{i}/3" for i in (1, 2, 3)
    ]


def test_terminal_shows_one_bar(tmp_path, caplog, monkeypatch):
    """One bar for the run and one for the evaluation, on stderr, and no batch lines."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(bar, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(bar, "_on_terminal", lambda stream: stream is sys.stderr)
    bars = []

    class Bar(bar.tqdm):
        def __init__(self, *args, **kwargs):
            bars.append((kwargs["desc"], kwargs["total"], kwargs["initial"], kwargs["file"] is sys.stderr))
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(bar, "tqdm", Bar)
    cfg = run_cfg(tmp_path, TRAIN__PRINT_FREQ=1, TRAIN__CHECKPOINT_FREQ=1)
    first = run(cfg, fail_after=2)
    assert first._bar is None  # closed despite the interruption
    run(cfg)
    assert bars == [("train", 12, 0, True), ("train", 12, 6, True), ("evaluate test", 3, 0, True)]
    assert len(lines(caplog, "epoch [")) == 4  # one per epoch


def test_tensorboard_scalars(tmp_path, monkeypatch):
    """A writer gets losses, learning rate and results; without TensorBoard, logging is a no-op."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    trainer = run(run_cfg(tmp_path, OPTIM__MAX_EPOCH=1))
    assert trainer._writer is None and files(tmp_path / "out") == ["net"]
    written = []

    class Writer:
        def add_scalar(self, *args):
            written.append(args)

        def close(self):
            written.append("closed")

    trainer = build_trainer(run_cfg(tmp_path, out="other", OPTIM__MAX_EPOCH=1))
    trainer._writer = Writer()
    trainer.train()
    assert [w[::2] for w in written if w[0] == "train/loss"] == [("train/loss", i) for i in range(3)]
    assert [w[1] for w in written if w[0] == "train/lr"] == [1e-5, 1e-5, 0.05]
    assert ("test/accuracy", trainer.results[0], 0) in written and written[-1] == "closed"

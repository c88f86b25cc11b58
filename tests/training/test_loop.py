"""A training step never waits for the device; figures are read together; an evaluation copies its outputs once."""

import math

import protocol
import pytest
import torch
import toy
import versions
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import set_random_seed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from waits import Waits

from trainers.cli import train
from trainers.training import optimiser, parallel
from trainers.training.records import METRICS
from trainers.training.resume import DivergedError

HOSTS = ("CoOp", "CoCoOp", "MaPLe", "PromptSRC", "KgCoOp", "TCP", "CasPL")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images and CLIPs."""
    root = tmp_path_factory.mktemp("loop")
    protocol.prepare(root)
    return root


def build(root, trainer, folder, **more):
    """Build a trainer on the toys; an epoch has six batches."""
    if trainer in ("KgCoOp", "TCP"):
        more[f"TRAINER__{trainer.upper()}__PREC"] = "fp32"
    if trainer == "TCP":
        more["TRAINER__TCP__LAYER"] = 1
    more = {"TRAIN__PRINT_FREQ": 4, "TEST__NO_TEST": True} | more
    set_random_seed(1)
    return build_trainer(train.setup_cfg(train.parse(toy.command(root, trainer, folder, **more))))


@pytest.mark.parametrize("trainer", HOSTS)
def test_step_waits_only_where_figures_are_read(root, tmp_path, trainer, monkeypatch):
    trainer = build(root, trainer, tmp_path)
    waits, step = [], type(trainer).forward_backward

    def counting(self, batch):
        with pytest.MonkeyPatch.context() as patch, Waits(patch) as mode:
            summary = step(self, batch)
        waits.append((mode.count, bool(summary)))
        return summary

    monkeypatch.setattr(type(trainer), "forward_backward", counting)
    monkeypatch.setattr(type(trainer), "finish_epoch", lambda self: None)
    trainer.train()
    assert waits == [(0, False)] * 3 + [(1, True)] + [(0, False)] + [(1, True)]


def test_step_with_complete_teacher_cache_does_not_wait(root, tmp_path):
    more = {"TRAINER__CASPL__TEACHER__CACHE": tmp_path / "cache", "TRAINER__CASPL__TEACHER__VIEWS": 1}
    build(root, "CasPL", tmp_path / "fill", **more).train()
    trainer = build(root, "CasPL", tmp_path / "run", **more)
    trainer.caches = trainer.open_caches()
    trainer.num_batches, trainer.batch_idx = 6, 0
    batch = next(iter(trainer.train_loader_x))
    with pytest.MonkeyPatch.context() as patch, Waits(patch) as mode:
        trainer.forward_backward(batch)
    assert mode.count == 0


def test_epoch_means_do_not_depend_on_print_frequency(root, tmp_path):
    rows = []
    for every in (0, 1, 4):
        build(root, "PromptSRC", tmp_path / str(every), TRAIN__PRINT_FREQ=every, SEED=1).train()
        rows.append((tmp_path / str(every) / METRICS).read_text().splitlines()[1].split(",")[:-1])
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize(("bad", "every"), [(2, 4), (2, 1), (5, 4), (6, 0)])
def test_non_finite_loss_is_named_by_batch_and_not_saved(root, tmp_path, monkeypatch, bad, every):
    trainer = build(root, "CoOp", tmp_path, TRAIN__PRINT_FREQ=every)
    compute, taken = TRAINER_REGISTRY.get("CoOp").compute_loss, []

    def compute_loss(self, batch):
        taken.append(self.batch_idx + 1)
        loss, figures = compute(self, batch)
        return loss * (math.inf if taken[-1] == bad else 1), figures

    monkeypatch.setattr(TRAINER_REGISTRY.get("CoOp"), "compute_loss", compute_loss)
    with pytest.raises(DivergedError, match=rf"the loss is (inf|nan) \(epoch 1, batch {bad} of 6\)"):
        trainer.train()
    assert taken[-1] == {(2, 4): 4, (2, 1): 2, (5, 4): 6, (6, 0): 6}[bad, every]
    assert not list(tmp_path.rglob("model*")) and not (tmp_path / "progress.pt").exists()


class Copies(TorchDispatchMode):
    """Counts copies from a GPU to the CPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if "copy" in function._schema.name:
            self.count += args[0].device.type == "cuda" and result.device.type == "cpu"
        return result


@versions.simulates_a_gpu
def test_evaluation_copies_outputs_once():
    seen = []

    class Evaluator:
        def reset(self):
            pass

        def process(self, output, label):
            seen.append((output.device.type, tuple(output.shape), label.tolist()))

        def evaluate(self):
            return {"accuracy": 1.0}

    evaluator = parallel.GatheringEvaluator(Evaluator())
    labels = [torch.tensor([0, 1, 2]), torch.tensor([3])]
    with FakeTensorMode(allow_non_fake_inputs=True):
        outputs = [torch.empty(3, 5, device="cuda"), torch.empty(1, 5, device="cuda")]
    with Copies() as copies:
        for output, label in zip(outputs, labels, strict=True):
            evaluator.process(output, label)
        assert copies.count == 0 and not seen
        evaluator.evaluate()
    assert copies.count == 1 and seen == [("cpu", (3, 5), [0, 1, 2]), ("cpu", (1, 5), [3])]


@versions.simulates_a_gpu
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_optimiser_is_fused_on_gpu_with_its_settings(kind):
    weight = torch.nn.Parameter(torch.ones(3))
    plain = kind([weight], lr=0.5, weight_decay=0.25)
    assert optimiser.fused(plain, torch.device("cpu")) is plain
    made = optimiser.fused(plain, torch.device("cuda"))
    assert type(made) is kind and made.defaults["fused"] and made._step_supports_amp_scaling
    for key, value in plain.param_groups[0].items():
        if key not in ("fused", "foreach", "params"):
            assert made.param_groups[0][key] == value, key
    assert made.param_groups[0]["fused"] and made.param_groups[0]["params"][0] is weight


@versions.simulates_a_gpu
def test_state_of_unfused_optimiser_resumes_on_gpu_and_back():
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    plain = torch.optim.Adam([weights[0]])
    weights[0].grad = torch.ones(3)
    plain.step()
    made = optimiser.fused(torch.optim.Adam([weights[1]]), torch.device("cuda"))
    state = optimiser.with_kernels_of(made, plain.state_dict())
    assert state["param_groups"][0]["fused"] is True
    made.load_state_dict(state)
    back = optimiser.with_kernels_of(plain, made.state_dict())
    assert back["param_groups"][0]["fused"] is plain.param_groups[0]["fused"]

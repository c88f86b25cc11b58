"""Which steps are compiled or replayed, and that a replayed step equals an eager one."""

import logging
from types import SimpleNamespace

import protocol
import pytest
import torch
import toy
from dassl.engine import build_trainer
from dassl.utils import set_random_seed

from trainers.cli import train
from trainers.training import graphs, parallel

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images and CLIPs."""
    root = tmp_path_factory.mktemp("graphs")
    protocol.prepare(root)
    return root


class Recording:
    """A graph on a CPU: a replay repeats the work and overwrites the tensors of the capture, which computes nothing."""

    made: list = []

    def __init__(self, parameters):
        self.parameters, self.replays = parameters, 0
        Recording.made.append(self)

    def warm_up(self, work):
        """Run the work."""
        return work()

    def capture(self, work):
        """Keep the work; its results are undefined before a replay."""
        for parameter in self.parameters:
            parameter.grad = None
        self.work, self.outputs = work, work()
        self.gradients = [parameter.grad for parameter in self.parameters]
        for tensor in (*self.outputs.values(), *self.gradients):
            tensor.fill_(torch.nan)
        return self.outputs

    def replay(self):
        """Repeat the work."""
        self.replays += 1
        fresh = self.work()
        for name, value in self.outputs.items():
            value.copy_(fresh[name])
        for gradient, parameter in zip(self.gradients, self.parameters, strict=True):
            gradient.copy_(parameter.grad)


def trained(root, folder, trainer, graphed, **more):
    """Train for two epochs of six batches; return what was learned and the trainer."""
    more = {"OPTIM__MAX_EPOCH": 2, "TEST__NO_TEST": True, "TRAIN__PRINT_FREQ": 4} | more
    cfg = train.setup_cfg(train.parse(toy.command(root, trainer, folder, **more)))
    set_random_seed(1)
    made = build_trainer(cfg)
    if graphed:
        made.before_epoch = lambda before=made.before_epoch: (before(), replace(made))
    made.train()
    return made._learner.state_dict()


def replace(trainer):
    """Replay a trainer's steps."""
    if not isinstance(trainer._step, graphs.GraphedStep):
        parameters = list(trainer._learner.parameters())
        trainer._step = graphs.GraphedStep(trainer.gradients, parameters, lambda: Recording(parameters))


@pytest.mark.parametrize("trainer", ["CoOp", "CoCoOp", "MaPLe", "PromptSRC", "CasPL"])
def test_replayed_steps_learn_same_bits(root, tmp_path, trainer):
    Recording.made.clear()
    more = {"TRAIN__FEATURES": tmp_path / "kept"} if trainer == "PromptSRC" else {}
    expected = trained(root, tmp_path / "eager", trainer, False, **more)
    found = trained(root, tmp_path / "graph", trainer, True, **more)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    (graph,) = Recording.made
    assert graph.replays == 12 - graphs.WARM_UP


def step_of(weight):
    """A step on one parameter."""

    def step(batch):
        weight.grad = None
        loss = (weight * batch["img"]).sum()
        loss.backward()
        return {"loss": loss.detach()}

    return step


def test_smaller_batch_runs_eagerly_and_replays_continue():
    weight = torch.nn.Parameter(torch.ones(1))
    graphed = graphs.GraphedStep(step_of(weight), [weight], lambda: Recording([weight]))
    for number in range(graphs.WARM_UP + 2):
        assert graphed({"img": torch.full((4,), float(number))})["loss"].item() == 4 * number
    assert graphed({"img": torch.full((3,), 2.0)})["loss"].item() == 6 and weight.grad.item() == 6
    assert graphed({"img": torch.full((4,), 5.0)})["loss"].item() == 20 and weight.grad.item() == 20
    assert graphed._graph.replays == 3


@pytest.mark.parametrize("required", [False, True])
def test_failed_capture_is_logged_or_raised(required, caplog):
    class Failing(Recording):
        def capture(self, work):
            raise RuntimeError("operation not permitted")

    weight = torch.nn.Parameter(torch.ones(1))
    graphed = graphs.GraphedStep(step_of(weight), [weight], lambda: Failing([weight]), required)
    batch = {"img": torch.ones(4)}
    for _ in range(graphs.WARM_UP):
        graphed(batch)
    if required:
        with pytest.raises(RuntimeError, match="not permitted"):
            graphed(batch)
        return
    with caplog.at_level(logging.WARNING):
        assert [graphed(batch)["loss"].item() for _ in range(2)] == [4, 4]
    assert [r.getMessage() for r in caplog.records] == [
        "TRAIN.CUDA_GRAPH auto: the step cannot be captured (operation not permitted); steps run eagerly"
    ]


def settings(compiled="auto", graph="auto"):
    """The part of a configuration that decides."""
    return SimpleNamespace(TRAIN=SimpleNamespace(COMPILE=compiled, CUDA_GRAPH=graph))


@pytest.mark.parametrize(
    ("value", "device", "triton", "graphed", "steps", "expected"),
    [
        ("auto", CUDA, True, True, 20_000, True),
        ("auto", CUDA, True, True, 19_999, False),
        ("auto", CUDA, True, False, 20_000, False),
        ("auto", CUDA, False, True, 20_000, False),
        ("on", CUDA, False, False, 1, True),
        ("off", CUDA, True, True, 20_000, False),
        ("auto", CPU, True, False, 20_000, False),
        ("on", CPU, True, False, 20_000, False),
    ],
)
def test_blocks_are_compiled_where_it_saves_time(monkeypatch, value, device, triton, graphed, steps, expected):
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: triton or None)
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    assert graphs.compiles(settings(compiled=value), device, graphed, steps)[0] is expected


@pytest.mark.parametrize(
    ("value", "device", "ranks", "expected"),
    [
        ("auto", CUDA, 1, True),
        ("on", CUDA, 1, True),
        ("off", CUDA, 1, False),
        ("on", CPU, 1, False),
        ("auto", CUDA, 2, False),
    ],
)
def test_steps_are_replayed_on_one_gpu(monkeypatch, value, device, ranks, expected):
    monkeypatch.setattr(parallel, "size", lambda: ranks)
    assert graphs.graphs(settings(graph=value), device)[0] is expected


def test_choice_is_logged(root, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trained(root, tmp_path, "CoOp", False, OPTIM__MAX_EPOCH=1)
    assert "Compiled blocks: no (TRAIN.COMPILE auto; a CPU's towers are not compiled)" in caplog.text
    assert "CUDA graph: no (TRAIN.CUDA_GRAPH auto; it needs a GPU)" in caplog.text

"""What only a GPU can show: precisions, injection, several GPUs, prefetch, scaled losses, CUDA graphs, memory chunks."""

import json
import os
import subprocess
import sys

import deployed
import protocol
import pytest
import torch
import toy
from children import ALONE, ROOT
from dassl.engine import build_trainer
from dassl.utils import set_random_seed

from scripts.benchmark import works
from trainers.cli import train
from trainers.deploy import classifier as deploy
from trainers.engine import blocks_gpu, memory
from trainers.engine.precision import cast_clip
from trainers.method.losses import kl_divergence
from trainers.training import graphs, loaders

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU, or pytest runs without -m gpu"),
]

SMALL, CPU = works.SIZES["small"], torch.device("cpu")
NAMES = (*works.HOSTS, "phase1")
TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.2}  # relative, of losses


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Convolutions in float32: cuDNN's default, TF32, has 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def check_supported(dtype):
    """Skip where the GPU has no instructions for a dtype."""
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("bfloat16 needs a GPU of compute capability 8.0 or more")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images, CLIPs and a boosting prompt."""
    root = tmp_path_factory.mktemp("gpu")
    protocol.prepare(root)
    train.run(toy.command(root, "CasPL", root / "CasPL", USE_CUDA=False))
    return root


def step_on(name, device, dtype=torch.float32):
    """Build a training step whose weights and inputs depend on the name only."""
    torch.manual_seed(0)
    if name == "phase1":
        model = works.boosting_works(SMALL, 7, CPU, torch.float32)["engine"].model
    else:
        model = works.host_works(name, SMALL, 7, CPU, torch.float32)["engine"].model
    image, wanted = torch.randn(3, 3, SMALL.image, SMALL.image).to(device), torch.randn(3, 7).to(device)
    model.to(device)
    cast_clip(model.clip, dtype)

    def loss():
        if name == "phase1":
            return kl_divergence(model(image), wanted, 1.0)
        return sum(model.loss_terms(image, torch.arange(3, device=device))[0].values())

    return works.Step(model, loss)


def gradients(model):
    return {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(found, expected, tolerance):
    for key, gradient in expected.items():
        assert (found[key] - gradient).norm() <= tolerance * gradient.norm() + 1e-6, key


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_step_equals_float32_on_the_cpu(name, dtype):
    check_supported(dtype)
    expected, found = step_on(name, CPU), step_on(name, torch.device("cuda"), dtype)
    assert found().item() == pytest.approx(expected().item(), rel=TOLERANCE[dtype])
    check_gradients(gradients(found.model), gradients(expected.model), 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("name", NAMES)
def test_compiled_blocks_equal_eager_ones(name):
    pytest.importorskip("triton")
    step = step_on(name, torch.device("cuda"))
    loss, expected = step().item(), gradients(step.model)
    try:
        blocks_gpu.compile_inner_blocks("inductor")
        assert step().item() == pytest.approx(loss, rel=1e-4)
    finally:
        blocks_gpu.compile_inner_blocks(None)
    check_gradients(gradients(step.model), expected, 1e-3)


def arguments(root, trainer, folder, **more):
    """Return a command line that trains on the GPU."""
    more = {"USE_CUDA": True, "OPTIM__MAX_EPOCH": 2, "TRAIN__COMPILE": "off"} | more
    return toy.command(root, trainer, folder, **deployed.options(root, trainer) | more)


def trained(root, folder, trainer, **more):
    set_random_seed(1)
    made = build_trainer(train.setup_cfg(train.parse(arguments(root, trainer, folder, **more))))
    start = {key: value.float().cpu().clone() for key, value in made._learner.state_dict().items()}
    made.train()
    found = {key: value.float().cpu() for key, value in made._learner.state_dict().items()}
    return made, found, {key: (value - start[key]).norm() for key, value in found.items()}


@pytest.mark.parametrize("trainer", deployed.TRAINERS)
def test_training_equals_the_cpu_eagerly_and_from_a_cuda_graph(root, tmp_path, trainer):
    rate = {"OPTIM__LR": 0.002}
    cpu, expected, change = trained(root, tmp_path / "cpu", trainer, USE_CUDA=False, **rate)
    eager, found, _ = trained(root, tmp_path / "eager", trainer, TRAIN__CUDA_GRAPH="off", **rate)
    graphed, replayed, _ = trained(root, tmp_path / "graph", trainer, TRAIN__CUDA_GRAPH="on", **rate)
    assert (cpu.device.type, eager.device.type) == ("cpu", "cuda") and isinstance(graphed._step, graphs.GraphedStep)
    learned = [key for key in change if change[key] > 0.005]  # a bias ahead of a batch norm changes by rounding alone
    assert learned
    for key in learned:
        assert (found[key] - expected[key]).norm() <= 0.02 * change[key], key
        assert (replayed[key] - found[key]).norm() <= 0.02 * change[key], key


@pytest.mark.parametrize("trainer", ["CasPL_CoOp", "CoCoOp", "CasPL_PromptKD"])
def test_run_of_a_gpu_predicts_on_both_devices(root, tmp_path, trainer):
    train.run(arguments(root, trainer, tmp_path / "run", OPTIM__LR=0.002))
    files = sorted((root / "toy").glob("test_*.png"))
    cpu, gpu = (deploy.load(tmp_path / "run", device=device).predict(files, top=2) for device in ("cpu", "cuda"))
    assert [each.label for each in gpu] == [each.label for each in cpu]
    found, expected = ([p for each in of for _, p in each.top] for of in (gpu, cpu))
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp"])
@pytest.mark.parametrize("trainer", ["CoOp", "PromptSRC"])
def test_training_in_half_precision_with_scaler_and_fused_optimiser(root, tmp_path, trainer, precision):
    check_supported(torch.bfloat16 if precision == "bf16" else torch.float16)
    node = {f"TRAINER__{trainer.upper()}__PREC": precision}
    made, learned, _ = trained(root, tmp_path, trainer, **node)
    assert made.scaler.is_enabled() is (precision == "amp") and made.optim.param_groups[0]["fused"]
    assert all(value.isfinite().all() for value in learned.values())


def test_step_never_waits_for_the_gpu(root, tmp_path):
    made, _, _ = trained(root, tmp_path, "MaPLe", TRAIN__CUDA_GRAPH="off")
    made.batch_idx, made.num_batches = 0, 100
    made.cfg.defrost()
    made.cfg.TRAIN.PRINT_FREQ = 0
    batches = list(loaders.TimedLoader(made.train_loader_x, made.device))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            made.forward_backward(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_batches_are_pinned_and_prefetched(root, tmp_path):
    made = build_trainer(train.setup_cfg(train.parse(arguments(root, "CoOp", tmp_path))))
    assert next(iter(made.train_loader_x))["img"].is_pinned() and next(iter(made.test_loader))["img"].is_pinned()
    batch = next(iter(loaders.TimedLoader(made.train_loader_x, made.device)))
    assert batch["img"].is_cuda and batch["label"].is_cuda and not batch["index"].is_cuda


@pytest.mark.parametrize("name", ["CoOp", "CoCoOp"])
def test_memory_chunks_equal_whole_classes(name, monkeypatch):
    step = step_on(name, torch.device("cuda"))
    loss, expected = step().item(), gradients(step.model)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    step.model._at_a_time.clear()
    assert step().item() == pytest.approx(loss, rel=1e-4) and any(step.model._at_a_time.values())
    check_gradients(gradients(step.model), expected, 1e-3)


def test_injection_into_every_structure_equals_the_cpu():
    from plugin.structures import HOSTS, IMAGES, boosting, stock

    from trainers.plugin.inject import inject

    for make in HOSTS.values():
        outputs = []
        for device in ("cpu", "cuda"):
            host = make(stock()).to(device)
            inject(host, boosting(2, 2).to(device))
            with torch.no_grad():
                outputs.append(host(IMAGES.to(device)).float().cpu())
        torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-2)


def test_as_many_processes_as_gpus_train_by_nccl(root, tmp_path):
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip("NCCL needs two GPUs; PyTorch finds one")
    line = arguments(root, "CoOp", tmp_path / "run", DATALOADER__TRAIN_X__BATCH_SIZE=count)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--standalone"]
    program = "import sys, trainers, toy, json; from trainers.cli.train import main"
    script = tmp_path / "rank.py"
    script.write_text(f"{program}\nsys.exit(main(json.loads({json.dumps(json.dumps([str(w) for w in line]))})))\n")
    env = {key: value for key, value in ALONE.items() if key != "CUDA_VISIBLE_DEVICES"}  # ALONE hides all GPUs
    env |= {key: value for key, value in os.environ.items() if key == "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run([*command, str(script)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_clip_in_half_precision_keeps_layer_norms_in_float32():
    model = cast_clip(works.random_clip(SMALL, torch.device("cuda")), torch.float16)
    assert model.ln_final.weight.dtype == torch.float32 and model.text_projection.dtype == torch.float16

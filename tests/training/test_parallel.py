"""Two processes (gloo, on the CPU) match one process with the same global batch; both are started once for all tests.

Gradients, parameters and logits are compared in float64: a difference above 1e-9 there is not due to rounding.
"""

import json
import os
import socket
import subprocess

import children
import protocol
import pytest
import torch
import toy
from conftest import ROOT
from parallel_worker import recorded

from trainers.cli import train
from trainers.config import keep_config

TRAINERS = ("CasPL", "CasPL_CoOp", "CoCoOp", "MaPLe", "PromptSRC", "PromptKD")
TEST_IMAGES = 18  # in batches of 4: 4 + 4 + 4 + 4 + 2, so one process takes three and the other two
FAILING = {
    "diverging": "DivergedError: the loss is nan",
    "indivisible": "ConfigError: DATALOADER.TRAIN_X.BATCH_SIZE: 3; expected a multiple of the 2 processes",
    "kept_otherwise": "ConfigError",
}


def line(root, trainer, folder, **more):
    """A command line; validation after each epoch, and the best model tested, make the processes meet often."""
    if trainer == "CasPL_CoOp":
        more = {"TRAINER__CASPL__CHECKPOINT": root / "boost"} | more
    if trainer == "CasPL":
        more = {"TRAINER__CASPL__DEPTH_VISION": 0} | more  # a parameter without elements, which gets no gradient
    if trainer == "PromptKD":
        more = {"TRAINER__PROMPTKD__TEACHER": root / "teacher.pt", "TRAINER__PROMPTKD__PROMPT_DEPTH_VISION": 2} | more
    more = {"DATALOADER__TEST__BATCH_SIZE": 4, "TEST__FINAL_MODEL": "best_val"} | more
    return [str(item) for item in toy.command(root, trainer, folder, **more)]


def start(lines, folder):
    """The two processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "PYTHONPATH": children.PATH}
    quiet = ["-W", "ignore:pkg_resources is deprecated"]  # of openai-clip
    command = children.program(ROOT / "tests" / "parallel_worker.py", json.dumps(lines), folder, python=quiet)
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What both processes and what one process say, by trainer, and where they ran."""
    root = tmp_path_factory.mktemp("parallel")
    protocol.prepare(root)
    train.run([str(item) for item in toy.command(root, "CasPL", root / "boost")])
    lines = [(name, line(root, name, root / "two" / name)) for name in TRAINERS]
    lines.append(("diverging", line(root, "CoOp", root / "two" / "diverging")))
    lines.append(("indivisible", line(root, "CoOp", root / "two" / "indivisible", DATALOADER__TRAIN_X__BATCH_SIZE=3)))
    (root / "two" / "kept_otherwise" / "prompt_learner").mkdir(parents=True)
    (root / "two" / "kept_otherwise" / "prompt_learner" / "model.pth.tar-1").touch()  # an epoch was finished
    other = line(root, "CoOp", root / "two" / "kept_otherwise", OPTIM__LR=7)
    cfg = train.setup_cfg(train.parse(other))
    keep_config(cfg, root / "two" / "kept_otherwise" / "config.yaml")
    lines.append(("kept_otherwise", line(root, "CoOp", root / "two" / "kept_otherwise")))
    lines.append(("resumed", line(root, "CoOp", root / "two" / "resumed", OPTIM__MAX_EPOCH=2)))
    both = start(lines, root)
    alone = [(name, line(root, name, root / "one" / name)) for name in TRAINERS]
    alone.append(("resumed", line(root, "CoOp", root / "one" / "resumed", OPTIM__MAX_EPOCH=2)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as theirs, so that what is made before the training is the same to the bit
    one = {name: recorded(words) for name, words in alone}
    torch.set_num_threads(threads)
    said = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    names = [name for name, _ in lines]
    two = {name: [torch.load(root / f"{name}.{rank}.pt", weights_only=True) for rank in (0, 1)] for name in names}
    return {"one": one, "two": two, "root": root, "said": said}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_gradients_parameters_and_figures_match_one_process(outcomes, trainer):
    one = outcomes["one"][trainer]
    for ours in outcomes["two"][trainer]:
        for what in ("gradients", "parameters"):
            for name, expected in one[what].items():
                assert expected.dtype == torch.float64
                torch.testing.assert_close(ours[what][name], expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(ours["figures"], one["figures"], rtol=0, atol=1e-5)
    first, second = outcomes["two"][trainer]
    for name, parameter in first["parameters"].items():
        assert torch.equal(parameter, second["parameters"][name])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_images_of_a_step_match_one_process(outcomes, trainer):
    shares = [ours["images"] for ours in outcomes["two"][trainer]]
    together = [first + second for first, second in zip(*shares, strict=True)]
    assert together == [list(batch) for batch in outcomes["one"][trainer]["images"]]
    assert all(len(part) == 2 for share in shares for part in share)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_test_image_counts_once_in_order(outcomes, trainer):
    main, other = outcomes["two"][trainer]
    one = outcomes["one"][trainer]
    assert other["logits"] is None and len(one["logits"][-TEST_IMAGES:]) == TEST_IMAGES
    torch.testing.assert_close(main["logits"], one["logits"], rtol=0, atol=1e-5)
    assert main["metrics"] == other["metrics"] == pytest.approx(one["metrics"])


def test_only_rank_0_writes_and_logs(outcomes):
    for trainer in TRAINERS:
        there, expected = (
            sorted(
                str(p.relative_to(outcomes["root"] / n / trainer)) for p in (outcomes["root"] / n / trainer).rglob("*")
            )
            for n in ("two", "one")
        )
        strip = [path for path in there if "events" not in path]
        assert strip == [path for path in expected if "events" not in path]
    assert outcomes["said"][1] == ""


@pytest.mark.parametrize("rank", (0, 1))
def test_no_thread_outlives_process_group(outcomes, rank):
    before, during, after = json.loads((outcomes["root"] / f"threads.{rank}.json").read_text())
    assert during > before == after  # one that is left can abort the process as it exits, or hang it


def test_stopped_run_resumes_like_one_process(outcomes):
    one = outcomes["one"]["resumed"]
    for ours in outcomes["two"]["resumed"]:
        assert len(ours["images"]) == 6 and len(one["images"]) == 12  # the second epoch alone
        assert all(set(part) < set(batch) for part, batch in zip(ours["images"], one["images"][6:], strict=True))
        torch.testing.assert_close(ours["parameters"], one["parameters"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FAILING)
def test_error_stops_both_ranks_with_same_message(outcomes, name):
    for ours in outcomes["two"][name]:
        assert ours["error"].startswith(FAILING[name])

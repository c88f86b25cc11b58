"""Measures a cascaded host inside its checkout; started by `published.py` with the checkout as the current folder.

    python -m interop.probe JOB.json

The job has the arguments of the checkout's train.py, the files of boosting prompts, and the paths of the towers for
`explicit`. The results are written next to it.
"""

import contextlib
import copy
import inspect
import io
import json
import random
import runpy
import sys
import traceback
from pathlib import Path

import numpy
import torch
from interop import drive, explicit
from torch import nn


class Log(io.StringIO):
    """Keeps what is printed; Dassl's logger closes the stream that it found."""

    def close(self):
        """Stay open."""


class Captured(Exception):
    """Stops train.py where it builds its trainer."""


def configuration(arguments):
    """The configuration that the checkout's train.py builds its trainer with."""
    import dassl.engine

    found = []

    def capture(cfg):
        found.append(cfg)
        raise Captured

    build, dassl.engine.build_trainer = dassl.engine.build_trainer, capture
    sys.argv = ["train.py", *arguments]
    try:
        runpy.run_path("train.py", run_name="__main__")
    except Exception:
        if not found:  # DePT's train.py turns every exception into another
            raise
    finally:
        dassl.engine.build_trainer = build
    return found[0]


def seed(number=1):
    """Seed everything."""
    random.seed(number)
    numpy.random.seed(number)
    torch.manual_seed(number)


def build(cfg, checkpoint="", order="boosting_first"):
    """Build a trainer as Dassl's build_trainer does, cascaded if there is a checkpoint."""
    from dassl.engine import TRAINER_REGISTRY

    cfg = cfg.clone()
    cfg.defrost()
    cfg.TRAINER.CASPL.CHECKPOINT, cfg.TRAINER.CASPL.TEXT_ORDER = str(checkpoint), order
    cfg.freeze()
    seed()
    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)
    if not hasattr(trainer, "model"):  # ALVLM builds one in each of its rounds
        trainer.build_model()
    return trainer


def tensors(output):
    """All floating-point tensors of an output."""
    if isinstance(output, torch.Tensor):
        return [output.detach().float().flatten()] if output.is_floating_point() else []
    items = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else []
    return [tensor for item in items for tensor in tensors(item)]


def train_step(trainer, batch):
    """Gradients of one training step, which moves no parameter. name -> gradient."""
    trainer.set_model_mode("train")
    trainer.batch_idx, trainer.num_batches, trainer.epoch, trainer.max_epoch = 0, 1000, 0, 10
    optimisers = [o for o in [*trainer._optims.values(), getattr(trainer, "optim", None)] if o is not None]
    for optimiser in optimisers:
        optimiser.step = lambda *args, **kwargs: None
    seed(2)
    if "features" in inspect.signature(trainer.forward_backward).parameters:  # CLAP trains on features
        with torch.no_grad():
            trainer.features_test, trainer.labels_test = (
                trainer.model(batch["img"], return_features=True)[1],
                batch["label"],
            )
        trainer.forward_backward(trainer.features_test, batch["label"])
    else:
        trainer.forward_backward(batch)
    model = trainer.model
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def infer(trainer, images):
    """The model's outputs in evaluation, as one vector."""
    trainer.set_model_mode("eval")
    seed(3)
    with torch.no_grad():
        others = (
            len(inspect.signature(trainer.model_inference).parameters) - 1
        )  # ALVLM's Dassl takes text features, or None
        return torch.cat(tensors(trainer.model_inference(images, *[None] * others)))


def first_batch(trainer):
    """The first training batch."""
    seed(4)
    return next(iter(trainer.train_loader_x))


def images_of(trainer):
    """Test images (B, 3, R, R)."""
    seed(5)
    batch = next(iter(trainer.test_loader))
    return batch["img"]


def measured(trainer, batch, images):
    """Gradients of a step, then outputs in evaluation."""
    gradients = train_step(trainer, copy.deepcopy(batch))
    return gradients, infer(trainer, images)


def relative(found, expected):
    """Norm of the difference of two sets of gradients, relative to that of the second."""
    if found.keys() != expected.keys():
        return float("inf")
    apart = sum(float((found[k] - expected[k]).double().pow(2).sum()) for k in expected) ** 0.5
    return apart / (sum(float(expected[k].double().pow(2).sum()) for k in expected) ** 0.5 or 1)


def reached(gradients):
    """Names of the parameters that get a gradient other than 0."""
    return {name for name, gradient in gradients.items() if gradient.abs().max() > 0}


def group_of(file):
    """The boosting prompt in a file."""
    from caspl.method.prompt_file import load_boosting

    return load_boosting(file)[0]


@contextlib.contextmanager
def explicit_while_building(job, group):
    """Put explicit text tokens into the loaded CLIP of the job's number, for hosts that compute texts while being built."""
    number, load, seen = job.get("text_clip"), nn.Module.load_state_dict, []

    def load_state_dict(self, *args, **kwargs):
        result = load(self, *args, **kwargs)
        if hasattr(self, "token_embedding") and hasattr(self, "visual"):
            seen.append(self)
            if len(seen) == number + 1:
                doors = {"text": ("transformer", "transformer", "positional_embedding")}
                explicit.install(self, doors, group)
        return result

    nn.Module.load_state_dict = load if number is None else load_state_dict
    try:
        yield
    finally:
        nn.Module.load_state_dict = load


def reference(cfg, job, group):
    """The host alone, with explicit tokens."""
    with explicit_while_building(job, group):
        trainer = build(cfg)
    explicit.install(trainer.model, job["doors"], group, job.get("rerun", ()))
    return trainer


def probe(job):
    """All measurements of a host."""
    import caspl  # noqa: F401
    from caspl.method import prompt_file  # noqa: F401

    if job.get("float64"):
        drive.in_float64()
    results = {}
    cfg = configuration(job["arguments"])
    alone = build(cfg)
    batch, images = first_batch(alone), images_of(alone)
    gradients, outputs = measured(alone, batch, images)
    results["host"] = type(alone).__name__
    for depth, file in job["prompts"].items():
        found = results[depth] = {}
        cascaded = build(cfg, file)
        found["name"] = cascaded.cfg.TRAINER.NAME
        found["how"] = cascaded.injection.describe()
        our_gradients, ours = measured(cascaded, batch, images)
        expected_gradients, expected = measured(reference(cfg, job, group_of(file)), batch, images)
        found["logits"] = float((ours - expected).abs().max())
        found["effect"] = float((ours - outputs).abs().max())
        found["scale"] = float(outputs.abs().max())
        found["gradients"] = relative(our_gradients, expected_gradients)
        found["same parameters"] = (
            reached(our_gradients) == reached(gradients) and our_gradients.keys() == gradients.keys()
        )
        removed = build(cfg, file)
        while_building = removed.injection.hooks and job.get("text_clip") is not None
        removed.injection.remove()
        if while_building:
            found["removed"] = "texts were computed while building"
        else:
            again, out = measured(removed, batch, images)
            found["removed"] = bool(torch.equal(out, outputs)) and all(
                torch.equal(again[k], gradients[k]) for k in gradients
            )
    if "rejected" in job:
        results["rejected"] = rejection(cfg, job["rejected"])
    results["empty"] = empty(cfg, batch, images, gradients, outputs, group_of(next(iter(job["prompts"].values()))))
    return results


def rejection(cfg, file):
    """The message that a prompt is rejected with before training."""
    from caspl.plugin.structure import HostError

    try:
        build(cfg, file)
    except HostError as error:
        return str(error)
    return ""


def empty(cfg, batch, images, gradients, outputs, group):
    """Whether the host with a prompt of no tokens is the host alone, bit for bit."""
    from caspl.engine import PromptGroup
    from caspl.plugin.inject import inject

    trainer = build(cfg)
    inject(trainer.model, PromptGroup(group.text.detach()[:, :0], group.vision.detach()[:, :0]))
    again, out = measured(trainer, batch, images)
    return bool(torch.equal(out, outputs)) and all(torch.equal(again[k], gradients[k]) for k in gradients)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    job = json.loads(path.read_text())
    drive.prepare()
    results = {}
    log = Log()
    try:
        with contextlib.redirect_stdout(log):
            results = probe(job)
    except BaseException as error:
        results = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    results["log"] = log.getvalue()[-20000:]
    path.with_suffix(".result.json").write_text(json.dumps(results, indent=1, default=str))

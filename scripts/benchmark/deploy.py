"""Compare what is deployed: teacher, student, boosted student and CasPL, by the engine and by onnxruntime.

The models have random weights at the sizes of OpenAI's models, so their accuracy is not measured: accuracies in the table
and the plot are the paper's (arXiv 2409.17805, mean of eleven datasets), which has them for ViT-B/16.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from torchvision import transforms

from trainers.backbones import tokenizer
from trainers.deploy import export
from trainers.deploy.classifier import Classifier
from trainers.engine import Learner, PromptedCLIP, worded_texts
from trainers.engine.precision import Precision
from trainers.experiments.workload import synthetic_names
from trainers.results.read import PAPER

from . import measure, works

TITLES = {"vit_b32": "ViT-B/32", "vit_b16": "ViT-B/16", "vit_l14": "ViT-L/14"}
TEACHER, PUBLISHED = "vit_l14", "vit_b16"
HEADERS = ["", "runs on", "images/s", "parameters, M", "file, MB", "paper's accuracy, %"]
METHODS = {"student": "CLIP", "CasPL": "CasPL_PromptSRC"}  # in the paper's table


@dataclass(frozen=True)
class Row:
    """One deployed model.

    Attributes:
        size: the backbone's name.
        model: "teacher", "student", "boosted student" or "CasPL".
        runs_on: "engine", "onnxruntime" or "onnxruntime int8".
        rate: images per second.
        parameters: number of parameters of the image tower, the prompts and the class vectors.
        file: size of the file in bytes; for the engine, of these parameters in their dtype.
        accuracy: the paper's harmonic mean of base and new classes in per cent; None if it has none.
    """

    size: str
    model: str
    runs_on: str
    rate: float
    parameters: int
    file: int
    accuracy: float | None


def run(args: argparse.Namespace) -> None:
    """Measure all sizes, print the table, and write the figures and the plot that were asked for."""
    rows: list[Row] = []
    for name in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows += rows_of(name, args, Path(folder))
            print(tabulate([_cells(row) for row in rows], headers=HEADERS, tablefmt="github"), flush=True)
    print(
        "The accuracies are the paper's (base-to-new, mean of eleven datasets, CasPL with PromptSRC), not measured here."
    )
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    if args.plot:
        save_plot(rows, args.plot)


def rows_of(name: str, args: argparse.Namespace, folder: Path) -> list[Row]:
    """Measure the models of one size in alternation.

    Args:
        name: one of `works.SIZES`.
        args: `classes` (the first is used), `images`, `batch`, `rounds`.
        folder: for the exported files.
    """
    torch.manual_seed(0)
    size, names = works.SIZES[name], synthetic_names(args.classes[0])
    batch = torch.randn(args.batch or 8, 3, size.image, size.image)
    models = models_of(size, names)
    found = {(what, "engine"): model for what, model in models.items()}
    if name == TEACHER:
        found["teacher", "engine"] = models["student"]
    runs: dict[tuple[str, str], Callable[[Tensor], Any]] = dict(found)
    counts = {key: parameters_of(model) for key, model in found.items()}
    files = {key: 4 * count for key, count in counts.items()}
    for kind, path in exported(models["CasPL"], folder).items():
        key = ("CasPL", kind)
        runs[key], files[key], counts[key] = export.onnx_runner(path), path.stat().st_size, counts["CasPL", "engine"]
    jobs = [lambda run=run: _repeat(run, batch, args.images) for run in runs.values()]
    for job in jobs:
        job()
    rates = [args.images / seconds for seconds in measure.in_turns(jobs, args.rounds, batch.device)]
    return [
        Row(
            name, model, runs_on, rate, counts[model, runs_on], files[model, runs_on], accuracy_of(name, model, runs_on)
        )
        for (model, runs_on), rate in zip(runs, rates, strict=True)
    ]


def models_of(size: works.Size, names: list[str]) -> dict[str, Classifier]:
    """Return student, boosted student and CasPL with PromptSRC on one random CLIP."""
    clip_model, tokens = works.random_clip(size, torch.device("cpu")), size.tokens
    student = PromptedCLIP(clip_model, Learner(), worded_texts(tokenizer().encode, names, "a photo of a {}."))
    boosted = PromptedCLIP(clip_model, Learner(), worded_texts(tokenizer().encode, names, "a photo of a {}."))
    cascaded = works.host_model("PromptSRC", clip_model, names, tokens)
    for model in (boosted, cascaded):
        model.cascade(works.boosting_for(clip_model, tokens), "host_first")
    found = {"student": student, "boosted student": boosted, "CasPL": cascaded}
    return {what: as_classifier(model, names, size.image) for what, model in found.items()}


def as_classifier(model: PromptedCLIP, names: list[str], side: int) -> Classifier:
    """Return a classifier of a model in float32, as `caspl.load` does of a run."""
    steps = [transforms.Resize(side, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(side)]
    return Classifier(
        model, names, transforms.Compose([*steps, transforms.ToTensor()]), Precision("fp32"), lambda _: model
    )


def exported(classifier: Classifier, folder: Path) -> dict[str, Path]:
    """Export a classifier to ONNX in float32 and int8."""
    plain, small = folder / "float32.onnx", folder / "int8.onnx"
    export.export(classifier, plain)
    export.quantize(plain, small)
    return {"onnxruntime": plain, "onnxruntime int8": small}


def parameters_of(classifier: Classifier) -> int:
    """Return the number of parameters that classify an image: the image tower, its prompts and the class vectors."""
    model = classifier.model
    boosting = [] if model.boosting is None else list(model.boosting.vision)
    prompts = [*model.prompt_learner.vision_stack(), *boosting]
    tensors = [*model.clip.visual.parameters(), *prompts, classifier.encode_text()]
    return sum(tensor.numel() for tensor in tensors)


def accuracy_of(size: str, model: str, runs_on: str) -> float | None:
    """Return the paper's harmonic mean; int8 is not in the paper, and onnxruntime computes what the engine does."""
    if size != PUBLISHED or model not in METHODS or runs_on == "onnxruntime int8":
        return None
    with open(PAPER / "base2new.csv", newline="") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream) if row["dataset"] == "Average"}
    return float(rows[METHODS[model]]["hm"])


def _repeat(run: Callable[[Tensor], Any], batch: Tensor, images: int) -> None:
    for start in range(0, images, len(batch)):
        run(batch[: images - start])


def _cells(row: Row) -> list[str]:
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.2f}"
    sizes = [f"{row.parameters / 1e6:.1f}", f"{row.file / 1e6:.0f}"]
    return [f"{row.model}, {TITLES.get(row.size, row.size)}", row.runs_on, f"{row.rate:.2f}", *sizes, accuracy]


def save_plot(rows: list[Row], path: Path) -> None:
    """Plot accuracy against speed; models without a published accuracy are marked below the axis."""
    from matplotlib import pyplot as plt

    plt.switch_backend("Agg")
    sizes = list(dict.fromkeys(row.size for row in rows))
    colours = {size: plt.get_cmap("tab10")(number) for number, size in enumerate(sizes)}
    markers = {"engine": "o", "onnxruntime": "s", "onnxruntime int8": "^"}
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(9, 7), sharex=True, layout="constrained", height_ratios=(3, 2), gridspec_kw={"hspace": 0.05}
    )
    kinds = list(dict.fromkeys(row.model for row in rows))
    for number, row in enumerate(rows):
        style = {"color": colours[row.size], "marker": markers[row.runs_on], "linestyle": "none", "markersize": 8}
        if row.accuracy is not None:
            top.plot(row.rate, row.accuracy, **style)
            text = f"{row.model}, {row.runs_on}"
            place = (8, 6) if number % 2 else (8, -12)
            top.annotate(text, (row.rate, row.accuracy), place, textcoords="offset points", fontsize=8)
        bottom.plot(row.rate, kinds.index(row.model), **style)
    top.set(ylabel="harmonic mean of base and new classes, %", title="Accuracy (the paper's, ViT-B/16) against speed")
    top.margins(x=0.15, y=0.25)
    bottom.set(xlabel="images per second (logarithmic)", title="Speed of all models", ylim=(len(kinds) - 0.5, -0.5))
    bottom.set_yticks(range(len(kinds)), kinds)
    bottom.set_xscale("log")
    ticks = [tick for exponent in range(-3, 5) for tick in (10.0**exponent, 2 * 10.0**exponent, 5 * 10.0**exponent)]
    low, high = min(row.rate for row in rows) / 1.3, max(row.rate for row in rows) * 1.6
    bottom.set_xlim(low, high)
    shown = [tick for tick in ticks if low <= tick <= high]
    bottom.set_xticks(shown, [f"{tick:g}" for tick in shown])
    bottom.minorticks_off()
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    handles = [
        plt.Line2D([], [], color=colours[size], marker="o", ls="none", label=TITLES.get(size, size)) for size in sizes
    ]
    handles += [plt.Line2D([], [], color="grey", marker=mark, ls="none", label=kind) for kind, mark in markers.items()]
    bottom.legend(handles=handles, fontsize=8, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)

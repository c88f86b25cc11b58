"""Each metric against its definition, in one piece and in batches."""

import math

import pytest
import torch

from trainers.metrics import all_metrics
from trainers.metrics.calibration_error import CalibrationError

LOGITS = torch.randn(57, 7, generator=torch.Generator().manual_seed(0)) * 2
LABELS = torch.randint(0, 6, (57,), generator=torch.Generator().manual_seed(1))  # class 6 has no image


def accuracy():
    return 100 * sum(row.argmax() == label for row, label in zip(LOGITS, LABELS, strict=True)) / 57


def top5():
    return 100 * sum(label in row.argsort(descending=True)[:5] for row, label in zip(LOGITS, LABELS, strict=True)) / 57


def macro_f1():
    found, scores = LOGITS.argmax(dim=1), []
    for c in range(6):
        hits = sum((found == c) & (LABELS == c)).item()
        precision, recall = hits / max((found == c).sum().item(), 1), hits / (LABELS == c).sum().item()
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return 100 * sum(scores) / 6


def ece():
    confidence, found = LOGITS.double().softmax(dim=1).max(dim=1)
    total = 0.0
    for b in range(15):
        inside = [i for i in range(57) if b / 15 < confidence[i] <= (b + 1) / 15]
        if inside:
            mean = sum(confidence[i].item() for i in inside) / len(inside)
            correct = sum(bool(found[i] == LABELS[i]) for i in inside) / len(inside)
            total += len(inside) / 57 * abs(mean - correct)
    return 100 * total


def mean_per_class():
    found = LOGITS.argmax(dim=1)
    return 100 * sum((found[LABELS == c] == c).double().mean() for c in range(6)) / 6


EXPECTED = {"accuracy": accuracy, "top5": top5, "macro_f1": macro_f1, "ece": ece, "mean_per_class": mean_per_class}


def test_every_metric_has_a_definition_here():
    assert {metric.name for metric in all_metrics()} == set(EXPECTED)


@pytest.mark.parametrize("batch", [57, 10, 1])
@pytest.mark.parametrize("kind", all_metrics(), ids=lambda kind: kind.name)
def test_metric_equals_its_definition(kind, batch):
    metric = kind()
    for start in range(0, 57, batch):
        metric.update(LOGITS[start : start + batch], LABELS[start : start + batch])
    assert metric.compute() == pytest.approx(float(EXPECTED[kind.name]()), abs=1e-4)


TORCHMETRICS = {  # class and arguments
    "accuracy": ("MulticlassAccuracy", {"average": "micro"}),
    "top5": ("MulticlassAccuracy", {"average": "micro", "top_k": 5}),
    "mean_per_class": ("MulticlassAccuracy", {"average": "macro"}),
    "macro_f1": ("MulticlassF1Score", {"average": "macro"}),
    "ece": ("MulticlassCalibrationError", {"n_bins": 15, "norm": "l1"}),
}


@pytest.mark.parametrize("classes", [7, 3])
@pytest.mark.parametrize("kind", all_metrics(), ids=lambda kind: kind.name)
def test_metric_equals_torchmetrics(kind, classes):
    classification = pytest.importorskip("torchmetrics.classification")
    name, arguments = TORCHMETRICS[kind.name]
    if "top_k" in arguments:
        arguments = arguments | {"top_k": min(5, classes)}
    ours, theirs = kind(), getattr(classification, name)(classes, **arguments)
    drawn = torch.Generator().manual_seed(classes)
    for _ in range(20):
        logits, labels = torch.randn(100, classes, generator=drawn) * 3, torch.arange(100) % classes
        ours.update(logits, labels)
        theirs.update(logits, labels)
    assert ours.compute() == pytest.approx(100 * theirs.compute().item(), abs=1e-4)


@pytest.mark.parametrize("kind", all_metrics(), ids=lambda kind: kind.name)
def test_no_images_give_a_finite_figure(kind):
    assert math.isfinite(kind().compute())


def test_confident_and_right_is_calibrated():
    metric = CalibrationError()
    metric.update(torch.eye(4) * 100, torch.arange(4))
    assert metric.compute() == pytest.approx(0, abs=1e-6)

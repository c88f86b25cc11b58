"""The paper's protocols: on which classes a run is trained, what is measured behind it, and what stands in its table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

ELEVEN = [
    *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft"),
    *("sun397", "dtd", "eurosat", "ucf101"),
]
SHIFTED = ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
# In miniature: three sources, and test sets of the first one's classes that play the part of ImageNetV2 and its kin.
MINIATURE = ["shapes", "shapes_colours", "shapes_forms"]
MINIATURE_SHIFTED = ["shapes_v2", "shapes_sketch", "shapes_a", "shapes_r"]

Metrics = Mapping[str, float]
Test = Callable[..., Metrics]  # test(KEY VALUE pairs, dataset="" for the source)


def is_miniature(dataset: str) -> bool:
    """Whether a dataset is one of the embedded ones, which have their own recipes."""
    return dataset in MINIATURE + MINIATURE_SHIFTED


def targets_of(source: str) -> list[str]:
    """The datasets that a run on `source` is tested on: the others, then the shifted ones."""
    family = MINIATURE + MINIATURE_SHIFTED if is_miniature(source) else ELEVEN + SHIFTED
    return [dataset for dataset in family if dataset != source]


@dataclass(frozen=True)
class Protocol:
    """A protocol.

    Attributes:
        name: also the folder of its runs, below the output's.
        title: for people.
        trained_on: KEY VALUE pairs: the classes that runs are trained on, and first tested on.
        measure: (first accuracy, test, targets) -> the figures, in per cent.
        columns: {heading: figure of a result} of its table.
        boosting: folder of phase 1's runs, below the output's; protocols with the same recipe share it.
    """

    name: str
    title: str
    trained_on: list[str]
    measure: Callable[[Metrics, Test, list[str]], dict]
    columns: dict[str, Callable[[dict], float]]
    boosting: str = "boosting"


def _base_to_new(first: Metrics, test: Test, targets: list[str]) -> dict:
    base, new = first["accuracy"], test(["DATASET.SUBSAMPLE_CLASSES", "new"])["accuracy"]
    return {"base": base, "new": new, "hm": harmonic_mean(base, new)}


def _few_shot(first: Metrics, test: Test, targets: list[str]) -> dict:
    return {"accuracy": first["accuracy"]}


def _cross_dataset(first: Metrics, test: Test, targets: list[str]) -> dict:
    # From a target come the class names and the test images; no few-shot draw is made of it.
    tested = {name: test(["DATASET.NUM_SHOTS", "-1"], name)["accuracy"] for name in targets}
    return {"accuracy": first["accuracy"], "targets": tested}


def harmonic_mean(base: float, new: float) -> float:
    """HM of two accuracies in per cent."""
    return 2 * base * new / (base + new) if base + new else 0.0


def mean_of_targets(result: dict) -> float:
    """The mean accuracy on all target datasets."""
    return sum(result["targets"].values()) / len(result["targets"])


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "base2new",
            "Base-to-new generalisation",
            ["DATASET.SUBSAMPLE_CLASSES", "base"],
            _base_to_new,
            {"base": lambda r: r["base"], "new": lambda r: r["new"], "harmonic mean": lambda r: r["hm"]},
        ),
        Protocol("few_shot", "Few-shot learning of all classes", [], _few_shot, {"accuracy": lambda r: r["accuracy"]}),
        Protocol(
            "cross_dataset",
            "Cross-dataset transfer and domain generalisation",
            [],
            _cross_dataset,
            {"source": lambda r: r["accuracy"], "mean of the targets": mean_of_targets},
            "boosting_cross",
        ),
    )
}

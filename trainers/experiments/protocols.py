"""The paper's protocols, described as data: the command line, the runs, the tables and the plots read these entries.

A new protocol is one more entry of `PROTOCOLS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PAPER_HOSTS = ("CoOp", "CoCoOp", "MaPLe", "PromptSRC")
ELEVEN = [
    *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft"),
    *("sun397", "dtd", "eurosat", "ucf101"),
]
SHIFTED = ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
# The miniature: three sources, and test sets of the first one's classes in place of ImageNetV2 and the other shifts.
MINIATURE = ["shapes", "shapes_colours", "shapes_forms"]
MINIATURE_SHIFTED = ["shapes_v2", "shapes_sketch", "shapes_a", "shapes_r"]
DEMONSTRATION = "shapes_misnamed"  # embedded as well: its labels tell what its names do not

ACCURACY = "accuracy"  # the metric of all headline figures

Evaluations = Mapping[str, Mapping[str, float]]  # {test set: {metric: value}}


def is_miniature(dataset: str) -> bool:
    """Return whether a dataset is one of the embedded ones, which have separate recipes."""
    return dataset in [*MINIATURE, *MINIATURE_SHIFTED, DEMONSTRATION]


def targets_of(source: str) -> list[str]:
    """Return the datasets that a run on `source` is tested on.

    They are the other sources, then the shifted ones.
    """
    family = MINIATURE + MINIATURE_SHIFTED if is_miniature(source) else ELEVEN + SHIFTED
    return [dataset for dataset in family if dataset != source]


def harmonic_mean(base: float, new: float) -> float:
    """Return the harmonic mean of two accuracies in per cent."""
    return 2 * base * new / (base + new) if base + new else 0.0


@dataclass(frozen=True)
class Column:
    """A column of a protocol's table.

    Attributes:
        name: its name in CSV and JSON.
        title: its heading.
        of: the test sets whose figures it shows.
        combine: figures of `of` -> the column's figure; None if `of` is a single test set.
    """

    name: str
    title: str
    of: tuple[str, ...]
    combine: Callable[..., float] | None = None

    def figure(self, evaluations: Evaluations, metric: str = ACCURACY) -> float:
        """Return the column's figure of a metric."""
        values = [evaluations[test][metric] for test in self.of]
        return self.combine(*values) if self.combine else values[0]


@dataclass(frozen=True)
class Scope:
    """The runs of a grid: the product of these lists."""

    datasets: tuple[str, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    hosts: tuple[str, ...] = PAPER_HOSTS
    shots: tuple[int, ...] = (16,)


@dataclass(frozen=True)
class Protocol:
    """A protocol.

    Attributes:
        name: its name and the folder of its runs in the output folder; its command has dashes in place of underscores.
        title: heading of its tables.
        summary: one line for `caspl --help`.
        trained_on: KEY VALUE pairs that select the classes of training and of the first test set.
        tests: {test set: KEY VALUE pairs} of the source dataset; the first is the classes trained on.
        columns: the columns of its table.
        layout: what the table's columns are: "columns" (the entries above), "shots" (numbers of shots), or "targets"
            (one row per tested dataset).
        plot: how it is drawn: "movement", "curves" or "" (not at all).
        target_options: KEY VALUE pairs for testing on other datasets; None if it does not.
        arguments: names of the command's arguments (see `cli.protocols.ARGUMENTS`).
        boosting: folder of phase 1's runs in the output folder; protocols with the same recipe share it.
        paper: the runs of the paper's tables.
        miniature: the runs of `--miniature`.
    """

    name: str
    title: str
    summary: str
    trained_on: tuple[str, ...]
    tests: Mapping[str, tuple[str, ...]]
    columns: tuple[Column, ...]
    layout: str = "columns"
    plot: str = ""
    target_options: tuple[str, ...] | None = None
    arguments: tuple[str, ...] = ("dataset", "seed", "--host", "--shots", "--baseline")
    boosting: str = "boosting"
    paper: Scope = field(default_factory=lambda: Scope(tuple(ELEVEN)))
    miniature: Scope = field(default_factory=lambda: Scope(tuple(MINIATURE), seeds=(1,)))

    @property
    def command(self) -> str:
        """Its name on the command line."""
        return self.name.replace("_", "-")

    def figures(self, evaluations: Evaluations, metric: str = ACCURACY) -> dict[str, float]:
        """Return {column: figure} of a result.

        Combined columns exist for the accuracy only.
        """
        columns = [column for column in self.columns if metric == ACCURACY or column.combine is None]
        return {column.name: column.figure(evaluations, metric) for column in columns}


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="base2new",
            title="Base-to-new generalisation",
            summary="both phases, and the base-to-new table",
            trained_on=("DATASET.SUBSAMPLE_CLASSES", "base"),
            tests={"base": ("DATASET.SUBSAMPLE_CLASSES", "base"), "new": ("DATASET.SUBSAMPLE_CLASSES", "new")},
            columns=(
                Column("base", "base", ("base",)),
                Column("new", "new", ("new",)),
                Column("hm", "HM", ("base", "new"), harmonic_mean),
            ),
            plot="movement",
            miniature=Scope(tuple(MINIATURE), seeds=(1, 2)),
        ),
        Protocol(
            name="few_shot",
            title="Few-shot classification",
            summary="both phases, and the few-shot table",
            trained_on=(),
            tests={"all": ()},
            columns=(Column("accuracy", "accuracy", ("all",)),),
            layout="shots",
            plot="curves",
            arguments=("dataset", "shots", "seed", "--host", "--baseline"),
            paper=Scope(tuple(ELEVEN), hosts=("PromptSRC",), shots=(1, 2, 4, 8, 16)),
            miniature=Scope(tuple(MINIATURE), seeds=(1,), hosts=("CoOp", "PromptSRC"), shots=(1, 4, 16)),
        ),
        Protocol(
            name="cross_dataset",
            title="Cross-dataset transfer",
            summary="both phases, and the transfer table",
            trained_on=(),
            tests={"source": ()},
            columns=(Column("accuracy", "accuracy", ("source",)),),
            layout="targets",
            # Class names and test images come from a target; no few-shot set is drawn from it.
            target_options=("DATASET.NUM_SHOTS", "-1"),
            arguments=("dataset", "seed", "--host", "--shots", "--targets", "--baseline"),
            boosting="boosting_cross",
            paper=Scope(("imagenet",)),
            miniature=Scope(("shapes",), seeds=(1,)),
        ),
    )
}

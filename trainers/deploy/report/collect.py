"""What a report says of a run, collected from the run's folder and from its siblings'."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...names import trainer_title
from ...training import provenance
from ...training.records import EVALUATIONS, METRICS, PREDICTIONS, RESULT, read_rows
from ..classifier import Classifier
from ..figures import figures_of

MISTAKES = 24  # pictures of a page
WORDS = 3  # nearest words of a token


@dataclass(frozen=True)
class Classified:
    """One row of predictions.csv.

    Attributes:
        path: the image.
        label: its class.
        top: (class, probability) pairs, most likely first.
    """

    path: Path
    label: str
    top: list[tuple[str, float]]

    @property
    def correct(self) -> bool:
        """Whether the most likely class is the label."""
        return self.top[0][0] == self.label


@dataclass
class Evaluation:
    """One evaluation of the run.

    Attributes:
        name: dataset and classes, for people.
        figures: metric name to figure.
        rows: its predictions.
    """

    name: str
    figures: dict[str, float]
    rows: list[Classified]

    def per_class(self) -> list[tuple[str, int, float, str]]:
        """Return (class, images, accuracy in %, what it is confused with) of each class."""
        names = list(dict.fromkeys(row.label for row in self.rows))
        found = []
        for name in names:
            rows = [row for row in self.rows if row.label == name]
            wrong = Counter(row.top[0][0] for row in rows if not row.correct).most_common(3)
            accuracy = 100 * sum(row.correct for row in rows) / len(rows)
            found.append((name, len(rows), accuracy, ", ".join(f"{other} ({count})" for other, count in wrong)))
        return found

    def confusion(self) -> tuple[list[str], list[list[int]]]:
        """Return the class names and the matrix [label][prediction] of image counts."""
        names = list(dict.fromkeys([row.label for row in self.rows] + [row.top[0][0] for row in self.rows]))
        places = {name: place for place, name in enumerate(names)}
        matrix = [[0] * len(names) for _ in names]
        for row in self.rows:
            matrix[places[row.label]][places[row.top[0][0]]] += 1
        return names, matrix

    def mistakes(self, most: int = MISTAKES) -> list[Classified]:
        """Return the most confident mistakes, `most` at most."""
        wrong = [row for row in self.rows if not row.correct]
        return sorted(wrong, key=lambda row: -row.top[0][1])[:most]


@dataclass
class Story:
    """Everything that a page shows.

    Attributes:
        title: trainer and folder.
        headline: {trainer: {column: figure}} of the run and of what it is compared with.
        curves: {phase: {column: its values by epoch}} of metrics.csv.
        evaluations: of the run.
        ledger: provenance entries; settings: {key: value}; words: (token, nearest words) pairs.
    """

    title: str
    headline: dict[str, dict[str, float]]
    curves: dict[str, dict[str, list[float]]]
    evaluations: list[Evaluation]
    ledger: list[dict]
    settings: dict[str, object]
    words: list[tuple[str, str]] = field(default_factory=list)


def collect(run: Path, settings: Mapping[str, object], classifier: Classifier | None) -> Story:
    """Collect a run's story.

    Args:
        run: its folder, an absolute path.
        settings: its configuration, flat.
        classifier: the loaded run, for the nearest words of its text tokens; None leaves them out.
    """
    evaluations = [read_evaluation(path.parent) for path in sorted(run.glob(f"{EVALUATIONS}/*/{PREDICTIONS}"))]
    trainer = str(settings["TRAINER.NAME"])
    words = [] if classifier is None else nearest_words(classifier)
    ledger = provenance.kept(run) if (run / provenance.FILE_NAME).is_file() else []
    where = "/".join(run.parts[-5:]) if run.parent.name.startswith("shots_") else run.name
    phases = {"Training of phase 1": curves(boosting_folder(run)), "Training": curves(run)}
    return Story(f"{trainer}: {where}", headline(run, trainer), phases, evaluations, ledger, dict(settings), words)


def boosting_folder(run: Path) -> Path:
    """Return the folder of phase 1 of a protocol's run; it need not exist."""
    return (
        run.parents[4] / "boosting" / run.parents[2].name if run.parent.name.startswith("shots_") else run / "boosting"
    )


def read_evaluation(folder: Path) -> Evaluation:
    """Read one evaluation's figures and predictions."""
    figures = json.loads((folder / RESULT).read_text())["metrics"] if (folder / RESULT).is_file() else {}
    path = folder / PREDICTIONS
    try:
        rows = [_classified(row) for row in read_rows(path)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: damaged ({error!r}); expected the predictions that a run wrote. Remove {folder}"
        ) from error
    return Evaluation(folder.name.replace("_", " "), figures, rows)


def _classified(row: dict[str, str]) -> Classified:
    pairs = [(row[f"class_{n}"], row[f"p_{n}"]) for n in range(1, 6) if row.get(f"class_{n}")]
    return Classified(Path(row["path"]), row["label"], [(name, float(p)) for name, p in pairs])


def curves(run: Path) -> dict[str, list[float]]:
    """Return the columns of metrics.csv that have a number in every epoch."""
    if not (run / METRICS).is_file():
        return {}
    rows = read_rows(run / METRICS)
    names = [name for name in (rows[0] if rows else {}) if name != "epoch"]
    try:
        return {name: [float(row[name]) for row in rows] for name in names if all(row.get(name) for row in rows)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{run / METRICS}: {error}; expected the figures that a run wrote. Remove it") from error


def headline(run: Path, trainer: str) -> dict[str, dict[str, float]]:
    """Return {trainer: figures} of the run, after those of its baselines.

    They are zero-shot CLIP, the boosted student and the host.

    Runs of a protocol are in <output>/<protocol>/<dataset>/<trainer>/shots_<N>/seed_<S>.
    """
    siblings = {trainer: run}
    if run.parent.name.startswith("shots_"):
        dataset, host = run.parents[2], trainer.removeprefix("CasPL_")
        boosted = dataset / "CasPL" if (dataset / "CasPL").is_dir() else boosting_folder(run)
        siblings = {"ZeroshotCLIP": dataset / "ZeroshotCLIP", "CasPL": boosted}
        siblings |= {name: dataset / name / run.parent.name / run.name for name in (host, trainer)}
    found = {trainer_title(name): figures_of(folder) for name, folder in siblings.items()}
    return {name: figures for name, figures in found.items() if figures}


def overview(output: Path) -> dict[str, dict[str, float]]:
    """Return {path of a run below an output folder: figures} of every result."""
    folders = sorted(path.parent for path in output.rglob("result.json"))
    return {str(folder.relative_to(output)): figures_of(folder) for folder in folders}


def find_runs(where: Path) -> list[Path]:
    """Return the evaluated runs in a folder: the folder itself, or all below it.

    Raises:
        FileNotFoundError: there are none.
    """
    evaluated = {path.parents[2] for path in where.rglob(f"{EVALUATIONS}/*/{PREDICTIONS}")}
    runs = sorted(folder for folder in evaluated if (folder / "config.yaml").is_file())
    if not runs:
        raise FileNotFoundError(
            f"{where}: no config.yaml with {EVALUATIONS}/*/{PREDICTIONS} in it; expected a run that was evaluated, or a folder "
            "of such runs. Evaluate it"
        )
    return [where] if where in runs else runs


def nearest_words(classifier: Classifier) -> list[tuple[str, str]]:
    """Return (token, the vocabulary's words nearest to it) for the text tokens of the first layer."""
    from ...backbones import tokenizer_of

    if not hasattr(classifier.model.clip, "token_embedding"):
        return []  # PromptKD has no text tower
    decoder = tokenizer_of(classifier.model.clip).decoder
    table = classifier.model.clip.token_embedding.weight.detach().float().cpu()
    found = []
    for name, tokens in _first_tokens(classifier).items():
        for number, token in enumerate(tokens):
            order = torch.cdist(token[None], table)[0].topk(WORDS, largest=False).indices.tolist()
            words = ", ".join(decoder[index].replace("</w>", "") for index in order)
            found.append((f"{name} {number + 1}", words))
    return found


def _first_tokens(classifier: Classifier) -> dict[str, Tensor]:
    """Return {prompt: its first text layer (n, d)}; class-specific contexts are left out."""
    model, found = classifier.model, {}
    groups: dict[str, Sequence[Tensor | None]] = {}
    if model.boosting is not None:
        groups["boosting token"] = list(model.boosting.text)
    with torch.no_grad():
        groups["learned token"] = model.prompt_learner.text_stack()
    for name, stack in groups.items():
        first = stack[0] if len(stack) else None
        if first is not None and first.dim() == 2:
            found[name] = first.detach().float().cpu()
    return found

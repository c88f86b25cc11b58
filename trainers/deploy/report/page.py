"""Render a story as one HTML page: no network, light and dark, wide and narrow."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from ...metrics import all_metrics
from ..figures import TITLES
from .collect import MISTAKES, Classified, Evaluation, Story

_HERE = Path(__file__).resolve().parent
THUMBNAIL = 128  # pixels
MOST_CLASSES = 60  # of a confusion matrix; of more, those with most mistakes
CAPTIONS = {
    "acc": "training accuracy, %",
    "agreement": "agreement with the teacher, %",
    "validation": "validation accuracy, %",
    "ce": "cross-entropy",
    "learning_rate": "learning rate",
    "seconds": "seconds an epoch",
}


def render(stories: Sequence[Story], title: str = "", overview: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Return the page.

    Args:
        stories: of the runs.
        title: of the page if there are several.
        overview: {run: {column: figure}} for a table before several runs.
    """
    if len(stories) == 1:
        title, body = stories[0].title, _story(stories[0], MISTAKES)
    else:
        most = max(3, MISTAKES // len(stories))
        body = _figures("Accuracy of all runs, %", overview or {}) + "".join(
            f"<details><summary>{html.escape(story.title)}</summary>{_story(story, most)}</details>"
            for story in stories
        )
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><main><h1>{title}</h1>{body}</main><script>{script}</script></body></html>\n"
    )


def _story(story: Story, mistakes: int) -> str:
    parts = [_figures("Accuracy, %", story.headline)]
    parts += [_curves(phase, curves) for phase, curves in story.curves.items()]
    parts += [_evaluation(evaluation, mistakes) for evaluation in story.evaluations]
    parts += [_ledger(story.ledger), _words(story.words), _settings(story.settings)]
    return "".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    """Return a table; columns of numbers are aligned to the right."""
    rows = [list(row) for row in rows]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] == "—" for row in rows) for i in range(len(head))
    ]
    cells = "".join(_element("th", name, number) for name, number in zip(head, right, strict=True))
    lines = (
        "".join(_element("td", _cell(value), number) for value, number in zip(row, right, strict=True)) for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _element(tag: str, text: str, number: bool) -> str:
    return f"<{tag}{' class=number' if number else ''}>{html.escape(text)}</{tag}>"


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _figures(title: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    if not figures:
        return ""
    names = list(dict.fromkeys(name for each in figures.values() for name in each))
    rows = [[run, *(float(each[name]) if name in each else "—" for name in names)] for run, each in figures.items()]
    return f"<h2>{title}</h2>" + _table(["", *(TITLES.get(name, name) for name in names)], rows)


def _curves(title: str, curves: dict[str, list[float]]) -> str:
    drawn = [_curve(CAPTIONS.get(name, name), values) for name, values in curves.items() if len(values) > 1]
    return f'<h2>{title}</h2><div class="grid curves">{"".join(drawn)}</div>' if drawn else ""


def _curve(name: str, values: list[float]) -> str:
    """Draw one line: epochs to the right, the smallest and largest value in words."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = 280 / (len(values) - 1)
    points = " ".join(f"{10 + i * step:.1f},{110 - 100 * (value - low) / span:.1f}" for i, value in enumerate(values))
    return (
        f"<figure><figcaption>{html.escape(name)}</figcaption>"
        f'<svg viewBox="0 0 300 120" role="img"><polyline points="{points}"/></svg>'
        f"<p>{len(values)} epochs, {low:.4g} to {high:.4g}, last {values[-1]:.4g}</p></figure>"
    )


def _evaluation(evaluation: Evaluation, most: int) -> str:
    titles = {metric.name: metric.title for metric in all_metrics()}
    found = [f"{titles.get(name, name)} {value:.2f}" for name, value in evaluation.figures.items()]
    figures = f", in %: {', '.join(found)}" if found else ""
    rows = evaluation.per_class()
    parts = [f"<h2>{html.escape(evaluation.name)}</h2><p>{len(evaluation.rows)} images{html.escape(figures)}</p>"]
    parts.append("<h3>Accuracy by class</h3>")
    parts.append(_table(["class", "images", "accuracy, %", "confused with"], rows, "sortable"))
    parts.append(_confusion(evaluation))
    mistakes = "".join(filter(None, map(_picture, evaluation.mistakes(most))))
    if mistakes:
        parts.append(f'<h3>Most confident mistakes</h3><div class="grid">{mistakes}</div>')
    return "".join(parts)


def _confusion(evaluation: Evaluation) -> str:
    names, matrix = evaluation.confusion()
    places = sorted(range(len(names)), key=lambda i: matrix[i][i] - sum(matrix[i]))[:MOST_CLASSES]
    places.sort()
    note = f" of the {len(places)} classes with most mistakes" if len(places) < len(names) else ""
    head = "".join(f'<th class="up"><span>{html.escape(names[j])}</span></th>' for j in places)
    body = []
    for i in places:
        total = max(sum(matrix[i]), 1)
        cells = "".join(_heat(matrix[i][j], total, names[i], names[j]) for j in places)
        body.append(f"<tr><th>{html.escape(names[i])}</th>{cells}</tr>")
    table = f'<table class="heat"><thead><tr><td class="corner"></td>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<h3>Confusion matrix{note}</h3><p>Rows: labels. Columns: predictions.</p><div class="wide">{table}</div>'


def _heat(count: int, total: int, label: str, found: str) -> str:
    share = count / total
    title = html.escape(f"{label} taken for {found}: {count} of {total}", quote=True)
    return f'<td style="--share:{share:.2f}" title="{title}">{count or ""}</td>'


def _picture(row: Classified) -> str:
    """Show one mistake; an image that is gone is left out."""
    try:
        with Image.open(row.path) as image:
            small = image.convert("RGB")
    except (OSError, ValueError):
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    data = base64.b64encode(stream.getvalue()).decode()
    name, p = row.top[0]
    others = dict(row.top).get(row.label)
    own = f" ({100 * others:.0f}&nbsp;%)" if others is not None else ""
    return (
        f'<figure><img alt="{html.escape(row.label, quote=True)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption><b>{html.escape(name)}</b> {100 * p:.0f}&nbsp;%<br>is {html.escape(row.label)}{own}</figcaption></figure>"
    )


def _ledger(ledger: list[dict]) -> str:
    lines = []
    for item in ledger:
        phase = {"boosting": "Phase 1 (boosting)", "adapting": "Phase 2 (adapting)"}.get(item["phase"], item["phase"])
        images = f"{item['images']:,} images" if item["images"] else "an unknown number of images"
        images += f" (and {item['added_images']:,} of other folders)" if item.get("added_images") else ""
        labels = "with their labels" if item["labels"] else "without any label"
        names = len(item["class_names"])
        lines.append(f"{phase} saw {images} of {item['dataset'] or 'unknown data'} {labels}, and {names} class names.")
    return "<h2>Which data went where</h2>" + "".join(f"<p>{html.escape(line)}</p>" for line in lines) if lines else ""


def _words(words: list[tuple[str, str]]) -> str:
    return "<h2>Nearest words of the text tokens</h2>" + _table(["token", "words"], words) if words else ""


def _settings(settings: dict[str, object]) -> str:
    return (
        "<details><summary>Configuration</summary>"
        + _table(["key", "value"], [(key, str(value)) for key, value in settings.items()])
        + "</details>"
    )

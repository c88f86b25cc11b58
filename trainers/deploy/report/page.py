"""Render a story as one HTML page: no network, light and dark, wide and narrow."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from ...names import trainer_title
from .collect import Evaluation, Story, Tested

_HERE = Path(__file__).resolve().parent
THUMBNAIL = 128  # pixels
MOST_CLASSES = 60  # of a confusion matrix; of more, those with most mistakes
COLUMNS = {"base": "base classes", "new": "new classes", "hm": "harmonic mean", "accuracy": "accuracy"}


def render(story: Story) -> str:
    """Return the page."""
    parts = [_headline(story), _curves(story.curves)]
    for evaluation in story.evaluations:
        parts.append(_evaluation(evaluation))
    parts += [_ledger(story.ledger), _words(story.words), _settings(story.settings)]
    style, script = ((_HERE / name).read_text() for name in ("page.css", "page.js"))
    title = html.escape(story.title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><main><h1>{title}</h1>{''.join(parts)}</main><script>{script}</script></body></html>\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else html.escape(str(value))


def _headline(story: Story) -> str:
    if not story.headline:
        return ""
    names = [name for name in COLUMNS if any(name in figures for figures in story.headline.values())]
    rows = [
        [trainer_title(trainer), *(figures.get(name, "—") for name in names)]
        for trainer, figures in story.headline.items()
    ]
    return "<h2>Accuracy, %</h2>" + _table(["", *(COLUMNS[name] for name in names)], rows)


def _curves(curves: dict[str, list[float]]) -> str:
    drawn = [_curve(name, values) for name, values in curves.items() if len(values) > 1]
    return f'<h2>Training</h2><div class="grid">{"".join(drawn)}</div>' if drawn else ""


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


def _evaluation(evaluation: Evaluation) -> str:
    figures = ", ".join(f"{name} {value:.2f}" for name, value in evaluation.figures.items())
    rows = evaluation.per_class()
    parts = [f"<h2>{html.escape(evaluation.name)}</h2><p>{len(evaluation.rows)} images. {html.escape(figures)}</p>"]
    parts.append("<h3>Accuracy by class</h3>")
    parts.append(_table(["class", "images", "accuracy, %", "confused with"], rows, "sortable"))
    parts.append(_confusion(evaluation))
    mistakes = "".join(filter(None, map(_picture, evaluation.mistakes())))
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
    table = f'<table class="heat"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<h3>Confusion matrix{note}</h3><p>Rows: labels. Columns: predictions.</p><div class="wide">{table}</div>'


def _heat(count: int, total: int, label: str, found: str) -> str:
    share = count / total
    title = html.escape(f"{label} taken for {found}: {count} of {total}", quote=True)
    return f'<td style="--share:{share:.2f}" title="{title}">{count or ""}</td>'


def _picture(row: Tested) -> str:
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
    own = f" ({100 * others:.0f} %)" if others is not None else ""
    return (
        f'<figure><img alt="{html.escape(row.label, quote=True)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption><b>{html.escape(name)}</b> {100 * p:.0f} %<br>is {html.escape(row.label)}{own}</figcaption></figure>"
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
    return "<details><summary>Configuration</summary>" + _table(["key", "value"], settings.items()) + "</details>"

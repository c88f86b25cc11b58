"""Tells runs with different settings or data apart, so that no table mixes them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .read import PROMPT, Run


def separated(runs: list[Run]) -> list[Run]:
    """Set each run's `variant` to the settings that distinguish it.

    Empty where all runs agree.

    Runs that share a cell of a table must have the same settings, and all runs on a dataset the same images. Runs of a
    row in which nothing differs belong to each variant, and are returned once for each.

    Raises:
        ValueError: two files are of the same run.
    """
    found: list[Run] = []
    for protocol in dict.fromkeys(run.protocol for run in runs):
        same = [run for run in runs if run.protocol == protocol]
        labels = _labels(same)
        variants = [one for one in _unique(labels) if not any(one.items() < other.items() for other in labels)]
        for variant in variants:
            text = ", ".join(f"{key} {value}" for key, value in variant.items())
            chosen = (run for run, label in zip(same, labels, strict=True) if label.items() <= variant.items())
            found += [replace(run, variant=text) for run in chosen]
    return _unique_runs(found)


def _labels(runs: list[Run]) -> list[dict[str, str]]:
    """Return for each run {setting: value} of what differs within its row, and the images if they differ."""
    rows: dict[tuple, list[Run]] = defaultdict(list)
    images: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        rows[run.row].append(run)
        images[run.source or run.dataset] |= {run.data} - {""}
    differing = {row: _distinguishing(_completed(members)) for row, members in rows.items()}
    labels = []
    for run in runs:
        label = {key: str(run.setting(key)) for key in differing[run.row]}
        dataset = run.source or run.dataset
        if run.data and len(images[dataset]) > 1:
            label[f"images of {dataset}"] = run.data[:8]
        labels.append(label)
    return labels


def _completed(runs: list[Run]) -> list[dict[str, Any]]:
    """Return the settings of runs; a key that only some of them record, since it was added later, has its default."""
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    found = [{key: run.setting(key) for key in keys} for run in runs]
    return [{key: value for key, value in one.items() if value is not None} for one in found]


def _distinguishing(settings: list[dict[str, Any]]) -> list[str]:
    """Return the differing keys, without the boosting prompt if it follows from the others."""
    keys = _differing(settings)
    others = [key for key in keys if key != PROMPT]
    if PROMPT not in keys or not others:
        return keys
    prompts = defaultdict(set)
    for one in settings:
        prompts[tuple(str(one[key]) for key in others)].add(one[PROMPT])
    return others if all(len(found) == 1 for found in prompts.values()) else keys


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    """Return the keys that all have, with different values."""
    common = set.intersection(*(set(one) for one in settings))
    return sorted(key for key in common if len({str(one[key]) for one in settings}) > 1)


def _unique(labels: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for label in labels:
        if label not in found:
            found.append(label)
    return found


def _unique_runs(runs: list[Run]) -> list[Run]:
    """Return the runs, of a setting that several ablations have made only the first.

    Raises:
        ValueError: two other files are of the same run.
    """
    seen: dict[tuple, Run] = {}
    for run in runs:
        first = seen.setdefault((*run.row, run.seed, run.variant), run)
        if first.path != run.path and not (first.varied or run.varied):
            raise ValueError(
                f"{run.path}: of the same run as {first.path}; expected one file for each run. Move one of them away, or name "
                "one of the two folders"
            )
    kept = {id(run) for run in seen.values()}
    return [run for run in runs if id(run) in kept]

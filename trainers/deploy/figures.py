"""The headline figures of a run, from its protocol's result or from its evaluations."""

import json
from pathlib import Path

from ..training.records import EVALUATIONS, RESULT

TITLES = {"base": "base classes", "new": "new classes", "hm": "harmonic mean", "accuracy": "accuracy"}


def figures_of(run: Path) -> dict[str, float]:
    """Return {column of its protocol, or evaluation: accuracy in per cent} of a run.

    Empty if it was not evaluated.
    """
    if (run / "result.json").is_file():
        result = json.loads((run / "result.json").read_text())
        return {name: result[name] for name in TITLES if isinstance(result.get(name), int | float)}
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(run.glob(f"{EVALUATIONS}/*/{RESULT}"))}
    return {name.replace("_", " "): result["metrics"]["accuracy"] for name, result in found.items()}

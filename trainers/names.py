"""Near matches of a name that is not known, for messages."""

import difflib


def nearest(name: str, known: list[str]) -> str:
    """Return the known names nearest to an unknown one, in words for an error message."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not close:
        lower = {k.lower(): k for k in known}
        close = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known are {', '.join(sorted(known)[:40])}" if known else "there are none here"


def trainer_title(trainer: str) -> str:
    """Return a trainer's name for people: of zero-shot CLIP and of phase 1 alone in words."""
    return {"ZeroshotCLIP": "CLIP, zero-shot", "CasPL": "CLIP with the boosting prompt alone"}.get(trainer, trainer)

"""Templates that the CoOp family writes around a class name (github.com/KaiyangZhou/CoOp, zero-shot CLIP)."""

from pathlib import Path

DEFAULT = "a photo of a {}."

_BY_DATASET = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}


def template_of(dataset: str) -> str:
    """Return the template of a dataset's registry name."""
    return _BY_DATASET.get(dataset, DEFAULT)


def ensemble() -> list[str]:
    """Return the 60 templates of PromptSRC's frozen text features (github.com/muzairkhattak/PromptSRC)."""
    return (Path(__file__).resolve().parent / "templates.txt").read_text().splitlines()

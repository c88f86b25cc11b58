"""The model card of a shared run or boosting prompt."""

from collections.abc import Mapping

from dassl.data.datasets import DATASET_REGISTRY

from ..backbones import BUILT_IN
from ..backbones.files import is_published
from .figures import TITLES


def model_card(trainer: str, backbone: str, teacher: str, ledger: list[dict], figures: Mapping[str, float]) -> str:
    """Return a model card in Markdown.

    Args:
        trainer: the run's trainer, "CasPL" for a boosting prompt alone.
        backbone: the student's name.
        teacher: name of phase 1's teacher; empty without phase 1.
        ledger: provenance of each phase (see `training.provenance`).
        figures: {what was tested: accuracy in per cent}; the columns of a protocol get their titles.
    """
    lines = [
        "---",
        "library_name: caspl",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [caspl, clip, prompt-learning]",
        "---",
        "",
        f"# {trainer} on {ledger[-1]['dataset'] or 'an unknown dataset'}",
        "",
        f"Prompts for CLIP {backbone}, learned with CasPL (Cascade Prompt Learning, arXiv 2409.17805).",
        "CLIP's weights are not part of this repository.",
        "",
        "## Data",
        "",
        *map(_phase, ledger),
    ]
    if teacher:
        lines += ["", f"Teacher of phase 1: {teacher}."]
    if figures:
        lines += ["", "## Accuracy on the test images, %", "", "| | |", "| --- | --- |"]
        lines += [f"| {TITLES.get(name, name)} | {value:.2f} |" for name, value in figures.items()]
    lines += ["", "## Licences", "", *_licences(backbone, teacher, ledger), "", "## Use", "", *_use(trainer), ""]
    return "\n".join(lines)


def _phase(item: dict) -> str:
    labels = "with labels" if item["labels"] else "without labels"
    names = ", ".join(item["class_names"][:8]) + (", …" if len(item["class_names"]) > 8 else "")
    count = f"{item['images']} images" if item["images"] else "an unknown number of images"
    count += f" (and {item['added_images']} of other folders)" if item.get("added_images") else ""
    kinds = {"boosting": "Phase 1", "adapting": "Phase 2"}
    return (
        f"- {kinds.get(item['phase'], item['phase'])}: {count} of {item['dataset'] or 'an unknown dataset'} {labels}, "
        f"{item['classes']} classes ({len(item['class_names'])}: {names})."
    )


def _licences(backbone: str, teacher: str, ledger: list[dict]) -> list[str]:
    weights = {name: _of_weights(name) for name in (backbone, teacher) if name}
    data = {item["dataset"]: _of_data(item["dataset"]) for item in ledger if item["dataset"]}
    return [f"- {name}: {licence}" for name, licence in (weights | data).items()]


def _of_weights(name: str) -> str:
    if name in BUILT_IN:
        return "Apache-2.0"
    return "MIT (OpenAI)" if is_published(name) else "that of its publisher"


def _of_data(name: str) -> str:
    known = name in DATASET_REGISTRY.registered_names()
    facts = getattr(DATASET_REGISTRY.get(name), "facts", None) if known else None
    return getattr(facts, "licence", "") or "that of its publisher"


def _use(trainer: str) -> list[str]:
    if trainer == "CasPL":
        return ["    caspl train --trainer CasPL_CoOp ... TRAINER.CASPL.CHECKPOINT hf-hub:<user>/<name>"]
    lines = ["import caspl", 'classifier = caspl.load("hf-hub:<user>/<name>")', 'classifier.predict("image.jpg")']
    return [f"    {line}" for line in lines]

"""The model card of a shared run."""

from yacs.config import CfgNode

_FIGURES = {"base": "base classes", "new": "new classes", "hm": "harmonic mean", "accuracy": "accuracy"}


def model_card(cfg: CfgNode, ledger: list[dict], result: dict | None) -> str:
    """Return a model card in Markdown, made from a run's settings, provenance and result.

    Args:
        cfg: the run's configuration.
        ledger: its provenance (see `training.provenance`).
        result: its result.json; None if there is none.
    """
    lines = [
        "---",
        "library_name: caspl",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [caspl, clip, prompt-learning]",
        "---",
        "",
        f"# {cfg.TRAINER.NAME} on {cfg.DATASET.NAME}",
        "",
        f"Prompts for CLIP {cfg.MODEL.BACKBONE.NAME}, learned with CasPL (Cascade Prompt Learning, arXiv 2409.17805).",
        "CLIP's weights are not part of this repository; OpenAI publishes them under the MIT licence.",
        "",
        "## Data",
        "",
        *(_phase(item) for item in ledger),
        "",
        "The licence of the images is their dataset's.",
    ]
    if cfg.TRAINER.NAME.startswith("CasPL"):
        lines += ["", f"Teacher of phase 1: {cfg.TRAINER.CASPL.TEACHER.BACKBONE}."]
    figures = {title: (result or {}).get(key) for key, title in _FIGURES.items()}
    measured = {title: value for title, value in figures.items() if value is not None}
    if measured:
        lines += ["", "## Accuracy on the test images, %", "", "| | |", "| --- | --- |"]
        lines += [f"| {title} | {value:.2f} |" for title, value in measured.items()]
    lines += ["", "## Use", "", "    import caspl", '    classifier = caspl.load("hf-hub:<user>/<name>")']
    lines += ['    classifier.predict("image.jpg")', ""]
    return "\n".join(lines)


def _phase(item: dict) -> str:
    labels = "with labels" if item["labels"] else "without labels"
    names = ", ".join(item["class_names"][:8]) + (", …" if len(item["class_names"]) > 8 else "")
    count = f"{item['images']} images" if item["images"] else "an unknown number of images"
    kinds = {"boosting": "Phase 1", "adapting": "Phase 2"}
    return (
        f"- {kinds.get(item['phase'], item['phase'])}: {count} of {item['dataset'] or 'an unknown dataset'} {labels}, "
        f"{item['classes']} classes ({len(item['class_names'])}: {names})."
    )

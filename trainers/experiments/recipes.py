"""Changes of protocols and datasets to the published base-to-new recipes of configs/trainers/*/vit_b16.yaml.

Without an entry here, the base-to-new recipe is used. What the publications document, and choices where they do not:

- Few-shot is published for PromptSRC alone; the other hosts cascaded keep their base-to-new recipes. CoOp alone has its
  own paper's few-shot recipe, which is known for 16 shots and used for fewer, too.
- Cross-dataset: the boosting prompt's recipe is given with PromptSRC; one prompt of this recipe serves all hosts. Learning
  rate and epochs of its phase 1 are not given: the base-to-new ones.
- What is given for a cascaded PromptSRC or MaPLe is used for the host alone as well (its own tokens, of course).
"""

from .protocols import is_miniature

# {(protocol, what): {key: value}}; `what` is a trainer, or a host's name, which includes CasPL_<host>.
_BY_PROTOCOL: dict[tuple[str, str], dict[str, object]] = {
    ("few_shot", "PromptSRC"): {
        "OPTIM.MAX_EPOCH": 50,
        "TRAINER.PROMPTSRC.GPA_MEAN": 45,
        "TRAINER.PROMPTSRC.GPA_STD": 5,
    },
    ("few_shot", "CoOp alone"): {"OPTIM.MAX_EPOCH": 200, "TRAINER.COOP.N_CTX": 16, "TRAINER.COOP.CTX_INIT": ""},
    ("cross_dataset", "CasPL"): {
        "DATALOADER.TRAIN_X.BATCH_SIZE": 128,
        "TRAINER.CASPL.N_CTX_TEXT": 4,
        "TRAINER.CASPL.N_CTX_VISION": 4,
        "TRAINER.CASPL.DEPTH_TEXT": 1,
        "TRAINER.CASPL.DEPTH_VISION": 1,
    },
    ("cross_dataset", "PromptSRC"): {
        "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT": 3,
        "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION": 3,
        "TRAINER.PROMPTSRC.GPA_MEAN": 6,
        "TRAINER.PROMPTSRC.GPA_STD": 10,
    },
    ("cross_dataset", "MaPLe"): {"OPTIM.LR": 0.0026, "OPTIM.MAX_EPOCH": 2},
}
# Few-shot PromptSRC gives early epochs more weight on datasets that are close to CLIP's training data.
_EARLY = ("imagenet", "caltech101", "oxford_pets", "food101", "ucf101", "sun397")
_BY_DATASET: dict[tuple[str, str, str], dict[str, object]] = {
    **{
        ("few_shot", dataset, "PromptSRC"): {"TRAINER.PROMPTSRC.GPA_MEAN": 30, "TRAINER.PROMPTSRC.GPA_STD": 30}
        for dataset in _EARLY
    },
    **{
        (protocol, "imagenet", "CasPL"): {"DATALOADER.TRAIN_X.BATCH_SIZE": 128}
        for protocol in ("base2new", "few_shot", "cross_dataset")
    },
    **{
        (protocol, dataset, "TCP"): {"OPTIM.MAX_EPOCH": 25}
        for protocol in ("base2new", "few_shot", "cross_dataset")
        for dataset in ("imagenet", "sun397")
    },
    **{
        ("base2new", dataset, "PromptKD"): {"TRAINER.PROMPTKD.KD_WEIGHT": 200.0}
        for dataset in ("fgvc_aircraft", "oxford_flowers", "dtd")
    },
}


# {embedded dataset: {what: {key: value}}}: changes to configs/trainers/*/shapes.yaml; "" is every trainer.
_EMBEDDED: dict[str, dict[str, dict[str, object]]] = {
    "shapes_misnamed": {
        "": {"MODEL.BACKBONE.NAME": "shapes-student-tokens"},
        # Tokens in both of the text tower's blocks would leave the host's context nothing to act on.
        "CasPL": {"OPTIM.MAX_EPOCH": 30, "TRAINER.CASPL.N_CTX_TEXT": 2, "TRAINER.CASPL.DEPTH_TEXT": 1},
        "CoOp": {"OPTIM.MAX_EPOCH": 45},
        "CoCoOp": {"OPTIM.LR": 0.001},
        "MaPLe": {"OPTIM.LR": 0.01, "OPTIM.MAX_EPOCH": 12, "TRAINER.MAPLE.PROMPT_DEPTH": 1},
        "PromptSRC": {
            "OPTIM.LR": 0.01,
            "OPTIM.MAX_EPOCH": 12,
            "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT": 1,
            "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION": 1,
            "TRAINER.PROMPTSRC.N_CTX_VISION": 1,
            "TRAINER.PROMPTSRC.TEXT_LOSS_WEIGHT": 2,
            "TRAINER.PROMPTSRC.IMAGE_LOSS_WEIGHT": 1,
            "TRAINER.PROMPTSRC.GPA_MEAN": 10,
        },
    },
}


def changes(protocol: str, dataset: str, trainer: str) -> list[str]:
    """Return the KEY VALUE pairs by which a protocol or a dataset changes a trainer's recipe.

    The recipe is that of base-to-new; an embedded dataset has the same one in every protocol.

    Args:
        protocol: its name.
        dataset: name of a file in configs/datasets.
        trainer: `CasPL`, a host, `CasPL_<host>`, or `ZeroshotCLIP`.
    """
    host = trainer.removeprefix("CasPL_")
    found: dict[str, object] = {}
    if is_miniature(dataset):
        of = _EMBEDDED.get(dataset, {})
        found = of.get("", {}) | of.get(host, {})
    else:
        for what in (host, f"{trainer} alone"):
            found |= _BY_PROTOCOL.get((protocol, what), {}) | _BY_DATASET.get((protocol, dataset, what), {})
    return [str(item) for pair in found.items() for item in pair]

"""The keys below `TRAINER.CASPL`: phase 1's, and those that a cascaded host reads."""

from collections.abc import Callable
from pathlib import Path

from yacs.config import CfgNode

from .fields import BOOSTING, CASCADE, Field
from .vocabulary import losses, means, orders, precisions


def _with_runs(cfg: CfgNode) -> str:
    node = cfg.TRAINER.CASPL.TEACHER
    given = [key for key in ("RUN", "RUNS") if node[key]]
    return f"TRAINER.CASPL.TEACHER.{given[0]} is set" if given else ""


def _without_runs(cfg: CfgNode) -> str:
    return "" if cfg.TRAINER.CASPL.TEACHER.RUNS else "TRAINER.CASPL.TEACHER.RUNS is empty"


def is_run(name: str) -> bool:
    """Return whether a name of a run denotes a folder with a config.yaml."""
    folder = name.removeprefix("run:").removeprefix("local-dir:")
    return bool(folder) and (Path(folder).expanduser() / "config.yaml").is_file()


def _with_texts_of_runs(cfg: CfgNode) -> str:
    node = cfg.TRAINER.CASPL.TEACHER
    names = list(node.RUNS) or [node.RUN]
    runs = [name for name in names if name.startswith(("run:", "hf-hub:", "local-dir:")) or is_run(name)]
    return "the teacher is a run, which has its own texts" if names == runs else ""


def without_texts(cfg: CfgNode) -> str:
    """Return why phase 1 does not read `DATASET.TEMPLATE`; other trainers do."""
    if cfg.TRAINER.NAME != "CasPL":
        return ""
    overridden = "TRAINER.CASPL.TEACHER.TEMPLATE is set" if cfg.TRAINER.CASPL.TEACHER.TEMPLATE else ""
    return _with_texts_of_runs(cfg) or overridden


def _without_blocks(tower: str) -> Callable[[CfgNode], str]:
    def unread(cfg: CfgNode) -> str:
        return "" if cfg.TRAINER.CASPL[f"DEPTH_{tower}"] else f"TRAINER.CASPL.DEPTH_{tower} is 0"

    return unread


def _without_tokens(tower: str) -> Callable[[CfgNode], str]:
    def unread(cfg: CfgNode) -> str:
        node = cfg.TRAINER.CASPL
        unused = node[f"DEPTH_{tower}"] and not node[f"N_CTX_{tower}"]
        return f"TRAINER.CASPL.N_CTX_{tower} is 0" if unused else ""

    return unread


def _without_words(cfg: CfgNode) -> str:
    node = cfg.TRAINER.CASPL
    if node.N_CTX_TEXT > 4:
        return f"TRAINER.CASPL.N_CTX_TEXT is {node.N_CTX_TEXT}, and more than 4 tokens start at random"
    return "" if node.N_CTX_TEXT and node.DEPTH_TEXT else "there are no text tokens"


CASPL = tuple(
    Field(f"TRAINER.CASPL.{name}", default, meaning, **more)
    for name, default, meaning, more in (
        (
            "CHECKPOINT",
            "",
            "the boosting-prompt file, the folder of the run that trained it, or hf-hub:<user>/<name>[@<revision>]",
            {"longest": 1024, "path": True, "place": True, "read_by": (CASCADE,)},
        ),
        (
            "TEXT_ORDER",
            "boosting_first",
            "position of the boosting tokens relative to the host's context (published: host_first)",
            {"choices": orders, "read_by": (BOOSTING, CASCADE)},
        ),
        (
            "JOINT",
            False,
            "an ablation: learn a boosting prompt of CHECKPOINT's size, drawn at random, jointly with the host's prompts",
            {"read_by": (CASCADE,)},
        ),
        (
            "N_CTX_TEXT",
            8,
            "text tokens",
            {
                "least": 0,
                "most": 74,
                "limits": ("text_positions",),
                "read_by": (BOOSTING,),
                "unread": _without_blocks("TEXT"),
            },
        ),
        (
            "N_CTX_VISION",
            8,
            "vision tokens",
            {"least": 0, "most": 512, "read_by": (BOOSTING,), "unread": _without_blocks("VISION")},
        ),
        (
            "DEPTH_TEXT",
            12,
            "text blocks with tokens",
            {
                "least": 0,
                "most": 256,
                "limits": ("text_layers",),
                "read_by": (BOOSTING,),
                "unread": _without_tokens("TEXT"),
            },
        ),
        (
            "DEPTH_VISION",
            12,
            "vision blocks with tokens",
            {
                "least": 0,
                "most": 256,
                "limits": ("vision_layers",),
                "read_by": (BOOSTING,),
                "unread": _without_tokens("VISION"),
            },
        ),
        (
            "CTX_INIT",
            "",
            "words that the first layer's text tokens start from, if there are at most 4; empty: N(0, 0.02)",
            {"read_by": (BOOSTING,), "unread": _without_words},
        ),
        ("PREC", "fp16", "precision of phase 1", {"choices": precisions, "read_by": (BOOSTING,)}),
        ("TEMPERATURE", 1.0, "temperature of the distillation", {"least": 1e-3, "most": 1000, "read_by": (BOOSTING,)}),
        ("LOSS", "kl", "loss of phase 1", {"choices": losses, "read_by": (BOOSTING,)}),
        ("CLASSES", "all", "classes of phase 1", {"choices": ("all", "base"), "read_by": (BOOSTING,)}),
        (
            "SHARE",
            1.0,
            "share of the dataset's training images that phase 1 takes, drawn with the seed",
            {"above": 0, "most": 1, "read_by": (BOOSTING,)},
        ),
        (
            "IMAGES",
            [],
            "folders of unlabelled images that phase 1 learns from as well",
            {"longest": 1024, "path": True, "read_by": (BOOSTING,)},
        ),
        ("HOST_WORDS", "", "words in the place of the host's context", {"read_by": (BOOSTING,)}),
        (
            "TEACHER.BACKBONE",
            "ViT-L/14",
            'the teacher: as MODEL.BACKBONE.NAME, or "open_clip:<architecture>/<tag or file>"',
            {"required": True, "longest": 1024, "path": True, "read_by": (BOOSTING,), "unread": _with_runs},
        ),
        (
            "TEACHER.RUN",
            "",
            "a finished run as the teacher: its folder, or hf-hub:<user>/<name>",
            {"longest": 1024, "path": True, "read_by": (BOOSTING,)},
        ),
        (
            "TEACHER.RUNS",
            [],
            "several teachers: finished runs, or names as of TEACHER.BACKBONE",
            {"longest": 1024, "path": True, "read_by": (BOOSTING,)},
        ),
        (
            "TEACHER.MEAN",
            "mean",
            "how the probabilities of several teachers are averaged: equally, or weighted by their confidence",
            {"choices": means, "read_by": (BOOSTING,), "unread": _without_runs},
        ),
        (
            "TEACHER.TEMPLATE",
            "",
            "the teacher's template, with {} for the class name; empty: the dataset's",
            {"read_by": (BOOSTING,), "unread": _with_texts_of_runs},
        ),
        (
            "TEACHER.VIEWS",
            0,
            "augmentations of each image, taken in turn; 0: a new one each epoch",
            {"least": 0, "most": 10**6, "read_by": (BOOSTING,)},
        ),
        (
            "TEACHER.CACHE",
            "",
            "folder for the teacher's image features (rounded to float16); empty: not kept",
            {"longest": 1024, "path": True, "read_by": (BOOSTING,)},
        ),
    )
)

"""Every configuration key that this package reads: the one source of defaults, types, ranges, checks and help.

Dassl's keys keep Dassl's defaults. A host declares its node below `TRAINER` in its own file. Keys of Dassl that are not
listed here are read by no trainer of this package.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from yacs.config import CfgNode

from .boosting_keys import CASPL, without_texts
from .fields import ADAPTING, BOOSTING, CASCADE, EVERY, LEARNING, ZERO_SHOT, Field, OnlyWith
from .vocabulary import evaluators, interpolations, optimizers, schedulers, transforms

_ADAM = ("adam", "amsgrad", "adamw", "radam")
_STEPS = ("single_step", "multi_step")
_FOLDER: dict[str, Any] = {"longest": 1024, "path": True, "place": True}


def _with_transform(*names: str) -> OnlyWith:
    return OnlyWith("INPUT.TRANSFORMS", names)


def _warmup(cfg: CfgNode) -> str:
    return "" if cfg.OPTIM.WARMUP_EPOCH > 0 else f"OPTIM.WARMUP_EPOCH is {cfg.OPTIM.WARMUP_EPOCH}"


def _warmup_of(kind: str):
    wanted = OnlyWith("OPTIM.WARMUP_TYPE", (kind,))
    return lambda cfg: _warmup(cfg) or wanted(cfg)


_RUN = (
    Field("OUTPUT_DIR", "./output", "folder of the run", required=True, read_by=(EVERY,), **_FOLDER),
    Field("RESUME", "", "folder to resume from, if not OUTPUT_DIR", read_by=(LEARNING,), **_FOLDER),
    Field("SEED", -1, "seed of all random draws; -1: not fixed", least=-1, most=2**32 - 1, read_by=(EVERY,)),
    Field("USE_CUDA", True, "compute on a GPU if there is one", place=True, read_by=(EVERY,)),
    Field("VERBOSE", True, "log the dataset's sizes", place=True, read_by=(EVERY,)),
    Field("TRAINER.NAME", "", "the trainer: a host, CasPL_<host>, CasPL or ZeroshotCLIP", read_by=(EVERY,)),
)

_INPUT = (
    Field("INPUT.SIZE", (224, 224), "height and width in pixels", least=1, most=4096, length=2, read_by=(EVERY,)),
    Field("INPUT.INTERPOLATION", "bilinear", "resampling when resizing", choices=interpolations, read_by=(EVERY,)),
    Field("INPUT.TRANSFORMS", (), "augmentations, and normalize", choices=transforms, longest=30, read_by=(EVERY,)),
    Field(
        "INPUT.PIXEL_MEAN",
        [0.485, 0.456, 0.406],
        "mean of red, green, blue",
        least=0,
        most=1,
        length=3,
        read_by=(EVERY,),
        unread=_with_transform("normalize"),
    ),
    Field(
        "INPUT.PIXEL_STD",
        [0.229, 0.224, 0.225],
        "standard deviation of red, green, blue",
        above=0,
        most=1,
        length=3,
        read_by=(EVERY,),
        unread=_with_transform("normalize"),
    ),
    *(
        Field(f"INPUT.{name}", default, meaning, read_by=(LEARNING,), unread=_with_transform(transform), **more)
        for name, default, meaning, transform, more in (
            ("CROP_PADDING", 4, "pixels around the image", "random_crop", {"least": 0, "most": 1024}),
            (
                "RRCROP_SCALE",
                (0.08, 1.0),
                "smallest and largest area, as a fraction",
                "random_resized_crop",
                {"above": 0, "most": 1, "length": 2},
            ),
            ("CUTOUT_N", 1, "squares", "cutout", {"least": 1, "most": 100}),
            ("CUTOUT_LEN", 16, "side of a square in pixels", "cutout", {"least": 1, "most": 4096}),
            ("GN_MEAN", 0.0, "mean of the noise", "gaussian_noise", {"least": -10, "most": 10}),
            ("GN_STD", 0.15, "standard deviation of the noise", "gaussian_noise", {"least": 0, "most": 10}),
            ("COLORJITTER_B", 0.4, "brightness", "colorjitter", {"least": 0, "most": 10}),
            ("COLORJITTER_C", 0.4, "contrast", "colorjitter", {"least": 0, "most": 10}),
            ("COLORJITTER_S", 0.4, "saturation", "colorjitter", {"least": 0, "most": 10}),
            ("COLORJITTER_H", 0.1, "hue", "colorjitter", {"least": 0, "most": 0.5}),
            ("RGS_P", 0.2, "probability of grey", "randomgrayscale", {"least": 0, "most": 1}),
            ("GB_P", 0.5, "probability of blur", "gaussian_blur", {"least": 0, "most": 1}),
            ("GB_K", 21, "side of the blur's kernel in pixels, odd", "gaussian_blur", {"least": 1, "most": 511}),
        )
    ),
    *(
        Field(
            f"INPUT.RANDAUGMENT_{name}",
            default,
            meaning,
            least=1,
            most=most,
            read_by=(LEARNING,),
            unread=_with_transform("randaugment", "randaugment2", "randaugment_fixmatch"),
        )
        for name, default, meaning, most in (("N", 2, "operations an image", 14), ("M", 10, "their strength", 30))
    ),
)

_DATA = (
    Field("DATASET.ROOT", "", "folder of the datasets", read_by=(EVERY,), **_FOLDER),
    Field("DATASET.NAME", "", "the dataset's class, as in configs/datasets", read_by=(EVERY,)),
    Field("DATASET.NUM_SHOTS", -1, "training images a class; -1: all", least=-1, most=10**6, read_by=(EVERY,)),
    Field("DATASET.SUBSAMPLE_CLASSES", "all", "which classes", choices=("all", "base", "new"), read_by=(EVERY,)),
    Field("DATASET.CLASSNAMES", "", "file of old and new class names", longest=1024, path=True, read_by=(EVERY,)),
    Field(
        "DATASET.TEMPLATE",
        "",
        "template with {} for the class name, or a JSON file of texts; empty: the dataset's",
        path=True,
        longest=1024,
        read_by=(BOOSTING, ZERO_SHOT),
        unread=without_texts,
    ),
    Field(
        "DATALOADER.NUM_WORKERS",
        4,
        "data workers; -1: chosen for the machine",
        least=-1,
        most=256,
        place=True,
        read_by=(EVERY,),
    ),
    Field(
        "DATALOADER.TRAIN_X.SAMPLER",
        "RandomSampler",
        "order of the training images",
        choices=("RandomSampler", "SequentialSampler"),
        read_by=(LEARNING,),
    ),
    Field(
        "DATALOADER.TRAIN_X.BATCH_SIZE",
        32,
        "training images a step, over all processes",
        least=1,
        most=2**16,
        read_by=(LEARNING,),
    ),
    Field(
        "DATALOADER.TEST.SAMPLER",
        "SequentialSampler",
        "order of the test images: every image once",
        choices=("SequentialSampler",),
        read_by=(EVERY,),
    ),
    Field("DATALOADER.TEST.BATCH_SIZE", 32, "test images a step", least=1, most=2**16, read_by=(EVERY,)),
)

_MODEL = (
    Field(
        "MODEL.BACKBONE.NAME",
        "",
        "the CLIP: a name of OpenAI's, an embedded one (shapes-...), a file, open_clip:..., or a Hugging Face folder",
        required=True,
        longest=1024,
        path=True,
        read_by=(EVERY,),
    ),
    Field("MODEL.INIT_WEIGHTS", "", "checkpoint to start from", longest=1024, path=True, read_by=(LEARNING,)),
)

_OPTIM = tuple(
    Field(f"OPTIM.{name}", default, meaning, read_by=(LEARNING,), **more)
    for name, default, meaning, more in (
        ("NAME", "adam", "optimiser", {"choices": optimizers}),
        ("LR", 0.0003, "learning rate", {"above": 0, "most": 1000}),
        ("WEIGHT_DECAY", 5e-4, "weight decay", {"least": 0, "most": 10}),
        ("MOMENTUM", 0.9, "momentum", {"least": 0, "below": 1, "unread": OnlyWith("OPTIM.NAME", ("sgd", "rmsprop"))}),
        (
            "SGD_DAMPNING",
            0,
            "dampening of the momentum",
            {"kind": float, "least": 0, "most": 1, "unread": OnlyWith("OPTIM.NAME", ("sgd",))},
        ),
        ("SGD_NESTEROV", False, "Nesterov momentum", {"unread": OnlyWith("OPTIM.NAME", ("sgd",))}),
        (
            "RMSPROP_ALPHA",
            0.99,
            "decay of the squared gradients",
            {"least": 0, "below": 1, "unread": OnlyWith("OPTIM.NAME", ("rmsprop",))},
        ),
        (
            "ADAM_BETA1",
            0.9,
            "decay of the gradients",
            {"least": 0, "below": 1, "unread": OnlyWith("OPTIM.NAME", _ADAM)},
        ),
        (
            "ADAM_BETA2",
            0.999,
            "decay of the squared gradients",
            {"least": 0, "below": 1, "unread": OnlyWith("OPTIM.NAME", _ADAM)},
        ),
        ("LR_SCHEDULER", "single_step", "learning-rate schedule", {"choices": schedulers}),
        (
            "STEPSIZE",
            (-1,),
            "epochs of the steps; -1: OPTIM.MAX_EPOCH",
            {
                "least": -1,
                "most": 10**6,
                "required": True,
                "longest": 100,
                "unread": OnlyWith("OPTIM.LR_SCHEDULER", _STEPS),
            },
        ),
        (
            "GAMMA",
            0.1,
            "factor at each step",
            {"above": 0, "most": 10, "unread": OnlyWith("OPTIM.LR_SCHEDULER", _STEPS)},
        ),
        ("MAX_EPOCH", 10, "epochs", {"least": 1, "most": 10**6}),
        ("WARMUP_EPOCH", -1, "epochs of warm-up; below 1: none", {"least": -1, "most": 10**6}),
        ("WARMUP_TYPE", "linear", "warm-up", {"choices": ("linear", "constant"), "unread": _warmup}),
        (
            "WARMUP_CONS_LR",
            1e-5,
            "learning rate of a constant warm-up",
            {"above": 0, "most": 1000, "unread": _warmup_of("constant")},
        ),
        (
            "WARMUP_MIN_LR",
            1e-5,
            "first learning rate of a linear warm-up",
            {"above": 0, "most": 1000, "unread": _warmup_of("linear")},
        ),
        ("WARMUP_RECOUNT", True, "the schedule starts at 0 after the warm-up", {"unread": _warmup}),
    )
)

_MEASURING = (
    Field(
        "TRAIN.CHECKPOINT_FREQ", 0, "epochs between checkpoints; 0: the last", least=0, most=10**6, read_by=(LEARNING,)
    ),
    Field(
        "TRAIN.PRINT_FREQ",
        10,
        "steps between log lines; 0: one an epoch",
        least=0,
        most=10**9,
        place=True,
        read_by=(LEARNING,),
    ),
    *(
        Field(f"TRAIN.{name}", "auto", meaning, choices=("auto", "off", "on"), place=True, read_by=(LEARNING,))
        for name, meaning in (
            ("COMPILE", "compile the towers' blocks; auto: in long trainings with a CUDA graph, if Triton is there"),
            ("CUDA_GRAPH", "replay training steps from a CUDA graph; auto: on a GPU, in one process"),
        )
    ),
    Field(
        "TRAIN.FEATURES",
        "",
        "folder for image features that do not change in training (PromptSRC's frozen ones); empty: not kept",
        read_by=(ADAPTING,),
        **_FOLDER,
    ),
    Field(
        "TRAIN.VIEWS",
        0,
        "augmentations of each image, taken in turn, whose features can be kept; 0: a new one each epoch",
        least=0,
        most=10**6,
        read_by=(ADAPTING,),
    ),
    Field(
        "TRAIN.TRACK",
        "",
        "also send figures to a tracker, wandb or trackio, which must be installed",
        choices=("", "wandb", "trackio"),
        place=True,
        read_by=(LEARNING,),
    ),
    Field(
        "TEST.FEATURES",
        "",
        "folder for test features of an image tower without learned prompts; empty: not kept",
        read_by=(EVERY,),
        **_FOLDER,
    ),
    Field("TEST.EVALUATOR", "Classification", "Dassl's evaluator", choices=evaluators, read_by=(EVERY,)),
    Field("TEST.PER_CLASS_RESULT", False, "also log each class's accuracy", read_by=(EVERY,)),
    Field("TEST.COMPUTE_CMAT", False, "write the confusion matrix to cmat.pt", read_by=(EVERY,)),
    Field("TEST.NO_TEST", False, "do not evaluate after training", read_by=(LEARNING,)),
    Field("TEST.SPLIT", "test", "images to evaluate on", choices=("val", "test"), read_by=(EVERY,)),
    Field(
        "TEST.FINAL_MODEL",
        "last_step",
        "which model is evaluated after training",
        choices=("last_step", "best_val"),
        read_by=(LEARNING,),
    ),
)

NOT_DASSLS = (  # keys of this package outside of TRAINER
    *("DATASET.SUBSAMPLE_CLASSES", "DATASET.CLASSNAMES", "DATASET.TEMPLATE"),
    *("TRAIN.COMPILE", "TRAIN.CUDA_GRAPH", "TRAIN.FEATURES", "TRAIN.TRACK", "TRAIN.VIEWS", "TEST.FEATURES"),
)

FIELDS = {field.name: field for field in (*_RUN, *_INPUT, *_DATA, *_MODEL, *_OPTIM, *_MEASURING, *CASPL)}


@dataclass(frozen=True)
class Reader:
    """A trainer of this package: its node below `TRAINER` ("" for none), and whether it learns."""

    node: str = ""
    learns: bool = True


_READERS: dict[str, Reader] = {"CasPL": Reader("CASPL")}


def declare(trainer: str, node: str = "", fields: tuple[Field, ...] = (), learns: bool = True) -> None:
    """Declare a trainer and the keys of its node below `TRAINER`."""
    _READERS[trainer] = Reader(node, learns)
    FIELDS.update({field.name: field for field in (own.below_node(node) for own in fields)})


def host_of(trainer: str) -> str:
    """Return the host's name of a trainer, cascaded or not."""
    return trainer.removeprefix("CasPL_").removeprefix("CasPL-")


def roles(trainer: str) -> set[str]:
    """Return the roles of a trainer: which of the keys outside of its host's node it reads."""
    found = {EVERY} | ({CASCADE} if host_of(trainer) != trainer else set())
    if not _READERS.get(host_of(trainer), Reader()).learns:
        return found | {ZERO_SHOT}
    return found | {LEARNING, BOOSTING if trainer == "CasPL" else ADAPTING}


def reads(trainer: str, key: str) -> bool:
    """Return whether a trainer of this package reads a key."""
    field = FIELDS.get(key)
    if field is None:
        return False
    if field.read_by:
        return bool(roles(trainer) & set(field.read_by))
    return key.split(".")[1] == _READERS.get(host_of(trainer), Reader()).node


def is_place(key: str) -> bool:
    """Return whether a key only says where and how a run is carried out."""
    return key in FIELDS and FIELDS[key].place


def fields_of(trainer: str) -> list[Field]:
    """Return the fields that a trainer of this package reads."""
    return [field for key, field in FIELDS.items() if reads(trainer, key)]


def is_own(trainer: str) -> bool:
    """Return whether a trainer, or the host that it cascades, is declared by this package."""
    return host_of(trainer) in _READERS


def extend_cfg(cfg: CfgNode) -> None:
    """Add CasPL's keys to a Dassl configuration.

    Call it in the toolbox's own `extend_cfg`. Repeating it is a no-op.

    `caspl train --help` lists the keys with their meanings.
    """
    add_missing(cfg, [*(FIELDS[key] for key in NOT_DASSLS), *CASPL])


def extend_with_hosts(cfg: CfgNode) -> None:
    """Add the keys of the nodes of all declared hosts."""
    add_missing(cfg, [field for field in FIELDS.values() if not field.read_by])


def add_missing(cfg: CfgNode, fields: Iterable[Field]) -> None:
    """Add keys with their defaults to a configuration, except for those that it has."""
    for field in fields:
        node = cfg
        for name in field.name.split(".")[:-1]:
            node = node.setdefault(name, CfgNode())
        node.setdefault(field.name.split(".")[-1], field.initial())

"""What runs cost: steps, images, counted operations, memory and disk, without data or weights."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from yacs.config import CfgNode

from ..engine import clip_sizes
from ..engine.counts import operations
from ..hosts.base import HostTrainer
from ..method import unlabelled
from . import workload
from .rates import measured_rate
from .setting import BOOSTING_SEED, Setting
from .sizes import Size, Tested, size_of, subset_classes, tested
from .workload import META, Key, Workload

PREDICTION_BYTES = 200  # a line of predictions.csv, about
CACHE_MARK = 4  # bytes of a row's checksum in a feature cache


Known = set[tuple]  # image towers and tests whose features are in the cache


@dataclass(frozen=True)
class Part:
    """The cost of a phase, or of its evaluation.

    Attributes:
        name: what it is.
        steps: training steps, or test batches.
        images: images that pass through the student's image tower, counted each time.
        operations: floating-point operations of matrix products, convolutions and attention.
        memory: peak bytes of weights and tensors, with the classes computed at once.
        disk: bytes of the files that are kept.
        rate: measured operations per second of this part; 0: not measured.
        remarks: what is not counted.
    """

    name: str
    steps: int
    images: int
    operations: int
    memory: int
    disk: int
    rate: float = 0.0
    remarks: tuple[str, ...] = ()

    def hours(self, rate: float) -> float:
        """Return the hours that it takes at its measured rate, or else at `rate` operations per second."""
        return self.operations / (self.rate or rate) / 3600


def _size(setting: Setting, dataset: str = "") -> Size:
    return size_of(setting.registered_name(dataset), setting.data, setting.output)


def costs(
    setting: Setting,
    trainer: str,
    seed: int | None = None,
    shots: int | None = None,
    measured: bool = False,
    known: Known | None = None,
) -> list[Part]:
    """Return the cost of a run and of its evaluation.

    Args:
        setting: the protocol and the dataset.
        trainer: "CasPL" with a seed is phase 1; otherwise a trainer of the protocol.
        seed: seed of the training; None without training.
        shots: images per class; None without phase 2.
        measured: also measure the rate of each part on this device.
        known: the features that earlier runs have kept; those of this run are added. None: of no earlier run.
    """
    cfg, boosting = _configurations(setting, trainer, seed, shots)
    tests = _test_sets(setting)
    if trainer == "CasPL" and seed is not None:  # phase 1 is tested on its own classes
        tests = [] if cfg.TEST.NO_TEST else [_tested(setting, cfg.TRAINER.CASPL.CLASSES)]
    return run_costs(cfg, boosting, _size(setting) if seed is not None else None, tests, measured, known)


def phase_1(setting: Setting, measured: bool = False, known: Known | None = None) -> list[Part]:
    """Return the cost of phase 1 (see `costs`)."""
    return costs(setting, "CasPL", BOOSTING_SEED, measured=measured, known=known)


def _configurations(
    setting: Setting, trainer: str, seed: int | None, shots: int | None
) -> tuple[CfgNode, CfgNode | None]:
    boosting = setting.configuration("CasPL", BOOSTING_SEED, setting.boosting_dir, setting.options_for("CasPL"))
    if trainer == "CasPL":
        return boosting, None
    options = [] if shots is None else ["DATASET.NUM_SHOTS", str(shots), *setting.rules.trained_on]
    folder = setting.folder(trainer, seed, shots)
    cfg = setting.configuration(
        trainer, BOOSTING_SEED if seed is None else seed, folder, [*options, *setting.options_for(trainer)]
    )
    return cfg, boosting if trainer.startswith("CasPL_") else None


def run_costs(
    cfg: CfgNode,
    boosting: CfgNode | None,
    size: Size | None,
    tests: Sequence[Tested],
    measured: bool = False,
    known: Known | None = None,
) -> list[Part]:
    """Return the cost of the run of a configuration.

    Args:
        cfg: the run's configuration.
        boosting: phase 1's configuration, for a cascaded run.
        size: the training dataset; None without training.
        tests: its tests; empty without an evaluation.
        measured: also measure the rate of each part on this device.
        known: the features that earlier runs have kept (see `costs`).
    """
    known = set() if known is None else known
    found = [] if size is None else [_training(cfg, boosting, size, measured, known)]
    return found + ([_evaluation(cfg, boosting, tests, measured, known)] if tests else [])


def _training(cfg: CfgNode, boosting: CfgNode | None, size: Size, measured: bool, known: Known) -> Part:
    classes, images = _trained_on(cfg, size)
    counts = _training_counts(Key(cfg, boosting), classes)
    batch, epochs = cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.OPTIM.MAX_EPOCH
    steps = epochs * (images // batch if images >= batch else 1)
    taken = min(batch, images) * steps
    total = counts.once + steps * counts.step
    disk = counts.state * (1 + epochs // cfg.TRAIN.CHECKPOINT_FREQ if cfg.TRAIN.CHECKPOINT_FREQ > 0 else 1)
    if counts.teacher_width:
        _, folder, views = counts.teacher_settings
        passes = min(epochs, views or epochs) if folder else epochs
        total += counts.teacher * (images * passes if folder else taken)
        disk += images * passes * (CACHE_MARK + 2 * counts.teacher_width) if folder else 0
    disk += counts.prompt
    seen = taken
    if (kept := _kept_in_training(cfg, boosting, counts.tower, images)) is not None:
        fresh = 0 if kept in known else min(taken, images * min(epochs, cfg.TRAIN.VIEWS or epochs))
        known.add(kept)
        total -= counts.tower.operations * (taken - fresh)
        disk += fresh * (CACHE_MARK + counts.tower.feature)
        seen = fresh if counts.tower.shared else taken
    phase = "phase 1" if cfg.TRAINER.NAME == "CasPL" else "phase 2"
    rate = measured_rate(cfg, boosting, classes, min(batch, images), True) if measured else 0.0
    return Part(f"{phase}: {cfg.TRAINER.NAME}", steps, seen, total, counts.memory, disk, rate, remarks=counts.remarks)


def _kept_in_training(cfg: CfgNode, boosting: CfgNode | None, tower: "_Tower", images: int) -> tuple | None:
    """Return what determines the features of augmented images (see `training.features`); None if they are not kept."""
    if not tower.operations or not cfg.TRAIN.FEATURES or cfg.SEED < 0 or (tower.shared and not cfg.TRAIN.VIEWS):
        return None
    phase_1 = (boosting or cfg).OUTPUT_DIR if tower.boosted else ""
    data = (cfg.DATASET.NAME, cfg.DATASET.SUBSAMPLE_CLASSES, cfg.DATASET.NUM_SHOTS, images, cfg.SEED)
    views = (cfg.TRAIN.VIEWS or cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE)
    return cfg.TRAIN.FEATURES, *data, *views, phase_1, tower.precision, cfg.INPUT.dump(), cfg.MODEL.BACKBONE.NAME


def _trained_on(cfg: CfgNode, size: Size) -> tuple[int, int]:
    """Return the numbers of classes and images of a training."""
    own = workload.own_class(cfg.TRAINER.NAME)
    subset = cfg.TRAINER.CASPL.CLASSES if cfg.TRAINER.NAME == "CasPL" else cfg.DATASET.SUBSAMPLE_CLASSES
    if cfg.TRAINER.NAME != "CasPL" and own is not None and not own.reads_labels:
        return size.classes, size.train  # PromptKD: all images of all classes
    classes = subset_classes(size.classes, subset)
    shots = cfg.DATASET.NUM_SHOTS
    added = len(unlabelled.list_images(cfg.TRAINER.CASPL.IMAGES)) if cfg.TRAINER.NAME == "CasPL" else 0
    share = cfg.TRAINER.CASPL.SHARE if cfg.TRAINER.NAME == "CasPL" else 1.0
    own_images = classes * shots if shots >= 1 else round(size.train * classes / size.classes)
    return classes, added + max(1, round(share * own_images))


@dataclass(frozen=True)
class _Tower:
    """An image tower.

    Attributes:
        operations: of an image; 0 if its features cannot be kept.
        feature: bytes of an image's feature.
        shared: whether the tower of the logits does not learn.
        boosted: whether that tower, not learning, has boosting tokens.
        precision: how it computes.
    """

    operations: int = 0
    feature: int = 0
    shared: bool = False
    boosted: bool = False
    precision: str = ""


def _tower_of(work: Workload, operations: int) -> _Tower:
    clip, shared = work.model.clip, work.model.has_text_prompts_only()  # PromptKD has no text tower
    weights = next(clip.visual.parameters())
    feature = clip_sizes(clip).embedding * weights.element_size()
    boosted = shared and any(map(len, work.model.vision_stacks()))
    return _Tower(operations, feature, shared, boosted, f"{work.precision.name} {weights.dtype}")


@dataclass(frozen=True)
class _TrainingCounts:
    """Counts of a training: operations once, per step, and of the teacher per image; bytes."""

    once: int
    step: int
    teacher: int
    teacher_width: int
    teacher_settings: tuple[str, str, int]
    memory: int
    state: int
    prompt: int
    remarks: tuple[str, ...]
    tower: _Tower


@functools.lru_cache(maxsize=256)
def _training_counts(key: Key, classes: int) -> _TrainingCounts:
    cfg = key.cfg
    work = Workload(cfg, workload.synthetic_names(classes), META, key.boosting)
    batch = cfg.DATALOADER.TRAIN_X.BATCH_SIZE
    once = operations(work.prepare)
    step = operations(lambda: work.step(batch))
    teacher = _teacher_operations(key) if work.teacher is not None else 0

    def whole() -> None:
        work.teach(batch)
        work.step(batch)

    # weights, gradients and the optimiser's momentum of what is trained, and the tensors of a step
    memory = work.weights + work.state + workload.peak_meta_bytes(whole)
    remarks: tuple[str, ...] = ()
    if work.teacher_name and work.teacher is None:
        remarks = (f"the teacher {work.teacher_name} is not counted: its sizes are unknown without its weights",)
    prompt = _prompt_bytes(key.boosting or (cfg if cfg.TRAINER.NAME == "CasPL" else None), work)
    width = work.teacher.class_features().shape[1] if work.teacher is not None else 0
    given = work.teacher_settings if work.teacher_name else ("", "", 0)
    tower = _tower_of(work, _kept_operations(key, work)) if issubclass(work.own, HostTrainer) else _Tower()
    return _TrainingCounts(once, step, teacher, width, given, memory, 2 * work.state, prompt, remarks, tower)


def _kept_operations(key: Key, work: Workload) -> int:
    """Return the operations of an image in a tower whose training features can be kept; 0: none."""
    frozen: Any = getattr(work.model, "frozen_encode", None)
    if frozen is None:
        return _tower_operations(key) if work.model.has_text_prompts_only() else 0

    def encode(images: int) -> None:
        with torch.no_grad():
            frozen(work.images(images))

    return workload.per_image(encode)[1]


def _prompt_bytes(cfg: CfgNode | None, work: Workload) -> int:
    group = work.model.boosting
    return 0 if cfg is None or group is None else 4 * sum(parameter.numel() for parameter in group.parameters())


def _evaluation(cfg: CfgNode, boosting: CfgNode | None, tests: Sequence[Tested], measured: bool, known: Known) -> Part:
    batch = cfg.DATALOADER.TEST.BATCH_SIZE
    total = steps = seen = memory = disk = 0
    for test in tests:
        counts = _evaluation_counts(Key(cfg, boosting), test.classes, batch)
        total += counts.once + test.images * counts.image
        steps, memory = steps - (-test.images // batch), max(memory, counts.memory)
        disk += test.images * PREDICTION_BYTES
        kept = _kept_in_test(cfg, boosting, counts.tower, test)
        if kept in known:
            total -= test.images * counts.tower.operations
            continue
        seen += test.images
        if kept is not None:
            known.add(kept)
            disk += test.images * (CACHE_MARK + counts.tower.feature)
    rate = measured_rate(cfg, boosting, tests[0].classes, batch, False) if measured else 0.0
    sets = f"{len(tests)} test set{'s' * (len(tests) > 1)}"
    name = f"evaluation: {cfg.TRAINER.NAME}, {sets}"
    return Part(name, steps, seen, total, memory, disk, rate)


def _kept_in_test(cfg: CfgNode, boosting: CfgNode | None, tower: _Tower, test: Tested) -> tuple | None:
    """Return what determines the features of a test's images (see `training.features`); None if they are not kept."""
    if not cfg.TEST.FEATURES or not tower.shared:
        return None
    phase_1 = (boosting or cfg).OUTPUT_DIR if tower.boosted else ""
    read = (cfg.INPUT.dump(), cfg.MODEL.BACKBONE.NAME, cfg.DATALOADER.TEST.BATCH_SIZE)
    return cfg.TEST.FEATURES, test.dataset, test.subset, phase_1, tower.precision, *read


def _test_sets(setting: Setting) -> list[Tested]:
    """Return the tests of a protocol."""
    found = []
    for options in setting.rules.tests.values():
        subset = dict(zip(options[::2], options[1::2], strict=True)).get("DATASET.SUBSAMPLE_CLASSES", "all")
        found.append(_tested(setting, subset))
    return found + [_tested(setting, "all", dataset) for dataset in setting.tested_datasets]


def _tested(setting: Setting, subset: str, dataset: str = "") -> Tested:
    return tested(setting.registered_name(dataset), _size(setting, dataset), subset)


@dataclass(frozen=True)
class _EvaluationCounts:
    """Counts of an evaluation: operations once and per image; peak bytes of a batch."""

    once: int
    image: int
    memory: int
    tower: _Tower


@functools.lru_cache(maxsize=256)
def _tower_operations(key: Key) -> int:
    """Return the operations of an image in the image tower."""
    return workload.per_image(Workload(key.cfg, workload.synthetic_names(2), META, key.boosting).encode)[1]


@functools.lru_cache(maxsize=256)
def _teacher_operations(key: Key) -> int:
    """Return the operations of an image in the teacher."""
    return workload.per_image(Workload(key.cfg, workload.synthetic_names(2), META, key.boosting).teach)[1]


@functools.lru_cache(maxsize=256)
def _evaluation_counts(key: Key, classes: int, batch: int) -> _EvaluationCounts:
    work = Workload(key.cfg, workload.synthetic_names(classes), META, key.boosting)
    first, (_, image) = operations(lambda: work.evaluate(1)), workload.per_image(work.classify)
    memory = work.weights + workload.peak(work.evaluate, batch)
    return _EvaluationCounts(first - image, image, memory, _tower_of(work, _tower_operations(key)))


def total(parts: Iterable[Part], name: str = "total") -> Part:
    """Return the sum of parts that run one after the other."""
    found: Sequence[Part] = list(parts)
    remarks = tuple(dict.fromkeys(remark for part in found for remark in part.remarks))
    added = {key: sum(getattr(part, key) for part in found) for key in ("steps", "images", "operations", "disk")}
    seconds = [part.operations / part.rate for part in found if part.rate]
    rate = added["operations"] / sum(seconds) if found and len(seconds) == len(found) else 0.0
    memory = max((part.memory for part in found), default=0)
    return Part(name, **added, memory=memory, rate=rate, remarks=remarks)

"""What runs cost: steps, images, counted operations, memory and disk, without data or weights."""

import functools
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from yacs.config import CfgNode

from ..engine import clip_sizes
from ..engine.counts import operations
from ..method import unlabelled
from . import workload
from .setting import BOOSTING_SEED, Setting
from .sizes import Size, Tested, size_of, subset_classes, tested
from .workload import META, Workload

PREDICTION_BYTES = 200  # a line of predictions.csv, about
CACHE_MARK = 4  # bytes of a row's checksum in a feature cache
TIMED_STEPS, TIMED_CLASSES, TIMED_IMAGES = 3, 50, 10


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
    found = [] if size is None else [_training(cfg, boosting, size, measured)]
    known = set() if known is None else known
    return found + ([_evaluation(cfg, boosting, tests, measured, known)] if tests else [])


def _training(cfg: CfgNode, boosting: CfgNode | None, size: Size, measured: bool) -> Part:
    classes, images = _trained_on(cfg, size)
    counts = _training_counts(_Key(cfg, boosting), classes)
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
    phase = "phase 1" if cfg.TRAINER.NAME == "CasPL" else "phase 2"
    rate = _measured_rate(cfg, boosting, classes, min(batch, images), True) if measured else 0.0
    return Part(f"{phase}: {cfg.TRAINER.NAME}", steps, taken, total, counts.memory, disk, rate, remarks=counts.remarks)


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
class _Key:
    """Configurations as a key of a cache: what a trainer computes does not depend on places, seeds and data."""

    cfg: CfgNode
    boosting: CfgNode | None

    @functools.cached_property
    def _text(self) -> str:
        made = []
        for cfg in (self.cfg, self.boosting):
            if cfg is not None:
                kept = cfg.clone()
                kept.defrost()
                kept.OUTPUT_DIR, kept.SEED = "", 0
                kept.DATASET = CfgNode()
                made.append(kept.dump())
        return "\n".join(made)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text


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


@functools.lru_cache(maxsize=256)
def _training_counts(key: _Key, classes: int) -> _TrainingCounts:
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
    return _TrainingCounts(once, step, teacher, width, given, memory, 2 * work.state, prompt, remarks)


def _prompt_bytes(cfg: CfgNode | None, work: Workload) -> int:
    group = work.model.boosting
    return 0 if cfg is None or group is None else 4 * sum(parameter.numel() for parameter in group.parameters())


def _evaluation(cfg: CfgNode, boosting: CfgNode | None, tests: Sequence[Tested], measured: bool, known: Known) -> Part:
    batch = cfg.DATALOADER.TEST.BATCH_SIZE
    total = steps = seen = memory = disk = 0
    for test in tests:
        counts = _evaluation_counts(_Key(cfg, boosting), test.classes, batch)
        total += counts.once + test.images * counts.image
        steps, memory = steps - (-test.images // batch), max(memory, counts.memory)
        disk += test.images * PREDICTION_BYTES
        tower = _kept_tower(cfg, boosting, counts, test)
        if tower in known:
            total -= test.images * counts.tower
            continue
        seen += test.images
        if tower is not None:
            known.add(tower)
            disk += test.images * (CACHE_MARK + counts.feature)
    rate = _measured_rate(cfg, boosting, tests[0].classes, batch, False) if measured else 0.0
    sets = f"{len(tests)} test set{'s' * (len(tests) > 1)}"
    name = f"evaluation: {cfg.TRAINER.NAME}, {sets}"
    return Part(name, steps, seen, total, memory, disk, rate)


def _kept_tower(cfg: CfgNode, boosting: CfgNode | None, counts: "_EvaluationCounts", test: Tested) -> tuple | None:
    """Return what determines the features of a test's images (see `training.features`); None if they are not kept."""
    if not cfg.TEST.FEATURES or not counts.shared:
        return None
    phase_1 = (boosting or cfg).OUTPUT_DIR if counts.boosted else ""
    read = (cfg.INPUT.dump(), cfg.MODEL.BACKBONE.NAME, cfg.DATALOADER.TEST.BATCH_SIZE)
    return cfg.TEST.FEATURES, test.dataset, test.subset, phase_1, counts.precision, *read


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
    """Counts of an evaluation.

    Attributes:
        once, image, tower: operations once, per image, and those of an image in the image tower.
        memory: peak bytes of a batch; feature: bytes of an image's feature.
        shared: whether the image tower is frozen; boosted: whether it has boosting tokens.
        precision: how it computes.
    """

    once: int
    image: int
    tower: int
    memory: int
    feature: int
    shared: bool
    boosted: bool
    precision: str


@functools.lru_cache(maxsize=256)
def _tower_operations(key: _Key) -> int:
    """Return the operations of an image in the image tower."""
    return workload.per_image(Workload(key.cfg, workload.synthetic_names(2), META, key.boosting).encode)[1]


@functools.lru_cache(maxsize=256)
def _teacher_operations(key: _Key) -> int:
    """Return the operations of an image in the teacher."""
    return workload.per_image(Workload(key.cfg, workload.synthetic_names(2), META, key.boosting).teach)[1]


@functools.lru_cache(maxsize=256)
def _evaluation_counts(key: _Key, classes: int, batch: int) -> _EvaluationCounts:
    work = Workload(key.cfg, workload.synthetic_names(classes), META, key.boosting)
    first, (_, image) = operations(lambda: work.evaluate(1)), workload.per_image(work.classify)
    memory = work.weights + workload.peak(work.evaluate, batch)
    clip = work.model.clip  # without a text tower for PromptKD
    weights = next(clip.visual.parameters())
    return _EvaluationCounts(
        *(first - image, image, _tower_operations(key), memory),
        feature=clip_sizes(clip).embedding * weights.element_size(),
        shared=work.model.has_text_prompts_only(),
        boosted=any(map(len, work.model.vision_stacks())),
        precision=f"{work.precision.name} {weights.dtype}",
    )


_rates: dict[tuple["_Key", bool], float] = {}


def _measured_rate(cfg: CfgNode, boosting: CfgNode | None, classes: int, images: int, training: bool) -> float:
    """Return the operations per second of a few steps on this device, measured once for a configuration."""
    key = _Key(cfg, boosting), training
    if key not in _rates:
        _rates[key] = _measure(cfg, boosting, min(classes, TIMED_CLASSES), images, training)
    return _rates[key]


def _measure(cfg: CfgNode, boosting: CfgNode | None, classes: int, images: int, training: bool) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
    images = images if training or device.type == "cuda" else min(images, TIMED_IMAGES)
    names = workload.synthetic_names(classes)
    counted, computed = (Workload(cfg, names, where, boosting) for where in (META, device))

    def work(of: Workload) -> None:
        if training:
            of.teach(images)
            of.step(images)
        else:
            of.evaluate(images)

    counted.prepare()
    computed.prepare()
    seconds = []
    for _ in range(1 + TIMED_STEPS):
        start = time.perf_counter()
        work(computed)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return operations(lambda: work(counted)) / statistics.median(seconds[1:])


def total(parts: Iterable[Part], name: str = "total") -> Part:
    """Return the sum of parts that run one after the other."""
    found: Sequence[Part] = list(parts)
    remarks = tuple(dict.fromkeys(remark for part in found for remark in part.remarks))
    added = {key: sum(getattr(part, key) for part in found) for key in ("steps", "images", "operations", "disk")}
    seconds = [part.operations / part.rate for part in found if part.rate]
    rate = added["operations"] / sum(seconds) if found and len(seconds) == len(found) else 0.0
    memory = max((part.memory for part in found), default=0)
    return Part(name, **added, memory=memory, rate=rate, remarks=remarks)

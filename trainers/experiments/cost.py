"""What runs cost: steps, images, counted operations, memory and disk, without data or weights."""

import functools
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from dassl.data.datasets import DATASET_REGISTRY
from yacs.config import CfgNode

from ..engine.counts import operations
from ..method import unlabelled
from . import workload
from .setting import BOOSTING_SEED, Setting
from .workload import META, Workload

PREDICTION_BYTES = 200  # a line of predictions.csv, about
CACHE_MARK = 4  # bytes of a row's checksum in the teacher cache
TIMED_STEPS, TIMED_CLASSES, TIMED_IMAGES = 3, 50, 10


@dataclass(frozen=True)
class Size:
    """The size of a dataset.

    Attributes:
        classes, train, test: numbers of classes and images.
    """

    classes: int
    train: int
    test: int


@dataclass(frozen=True)
class Part:
    """The cost of a phase, or of its evaluation.

    Attributes:
        name: what it is.
        steps: training steps, or test batches.
        images: images that pass, counted each time.
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


def size_of(name: str, data: Path, output: Path) -> Size:
    """Return a dataset's size: its published counts, or else those of the data, which are read.

    Args:
        name: its registered name.
        data: folder of the datasets.
        output: folder of the runs, which may have a draw of validation images.

    Raises:
        OSError, ValueError: nothing is published, and the data are missing or damaged.
    """
    kind = DATASET_REGISTRY.get(name)
    if counts := kind.expected_counts():
        test = counts["test"] or 0
        return Size(counts["classes"] or 0, counts.get("train") or test, test)
    train, _, test_items = kind.located(data, output).read_all()
    return Size(len({item.label for item in train}), len(train), len(test_items))


def _size(setting: Setting, dataset: str = "") -> Size:
    return size_of(setting.registered_name(dataset), setting.data, setting.output)


def costs(
    setting: Setting, trainer: str, seed: int | None = None, shots: int | None = None, measured: bool = False
) -> list[Part]:
    """Return the cost of a run and of its evaluation.

    Args:
        setting: the protocol and the dataset.
        trainer: "CasPL" with a seed is phase 1; otherwise a trainer of the protocol.
        seed: seed of the training; None without training.
        shots: images per class; None without phase 2.
        measured: also measure the rate of each part on this device.
    """
    cfg, boosting = _configurations(setting, trainer, seed, shots)
    tests = _test_sets(setting)
    if trainer == "CasPL" and seed is not None:  # phase 1 is tested on its own classes
        tests = [] if cfg.TEST.NO_TEST else [subset_images(_size(setting), cfg.TRAINER.CASPL.CLASSES)]
    return run_costs(cfg, boosting, _size(setting) if seed is not None else None, tests, measured)


def phase_1(setting: Setting, measured: bool = False) -> list[Part]:
    """Return the cost of phase 1."""
    return costs(setting, "CasPL", BOOSTING_SEED, measured=measured)


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
    cfg: CfgNode, boosting: CfgNode | None, size: Size | None, tests: Sequence[tuple[int, int]], measured: bool = False
) -> list[Part]:
    """Return the cost of the run of a configuration.

    Args:
        cfg: the run's configuration.
        boosting: phase 1's configuration, for a cascaded run.
        size: the training dataset; None without training.
        tests: (classes, images) of each test set; empty without an evaluation.
        measured: also measure the rate of each part on this device.
    """
    found = [] if size is None else [_training(cfg, boosting, size, measured)]
    return found + ([_evaluation(cfg, boosting, tests, measured)] if tests else [])


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


def subset_classes(count: int, subset: str) -> int:
    """Return the number of classes of a subset; the first half has the odd one."""
    return {"base": -(-count // 2), "new": count // 2}.get(subset, count)


@dataclass(frozen=True)
class _Key:
    """Configurations as a key of a cache: what a trainer computes does not depend on places, seeds and data."""

    cfg: CfgNode
    boosting: CfgNode | None

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
        return hash(self._text())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text() == other._text()


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
    teacher = workload.per_image(work.teach)[1] if work.teacher is not None else 0

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


def _evaluation(cfg: CfgNode, boosting: CfgNode | None, tests: Sequence[tuple[int, int]], measured: bool) -> Part:
    batch = cfg.DATALOADER.TEST.BATCH_SIZE
    total = steps = seen = memory = 0
    for classes, images in tests:
        counts = _evaluation_counts(_Key(cfg, boosting), classes, batch)
        total += counts[0] + images * counts[1]
        steps, seen, memory = steps - (-images // batch), seen + images, max(memory, counts[2])
    rate = _measured_rate(cfg, boosting, tests[0][0], batch, False) if measured else 0.0
    sets = f"{len(tests)} test set{'s' * (len(tests) > 1)}"
    name = f"evaluation: {cfg.TRAINER.NAME}, {sets}"
    return Part(name, steps, seen, total, memory, seen * PREDICTION_BYTES, rate)


def _test_sets(setting: Setting) -> list[tuple[int, int]]:
    """Return (classes, images) of each test of a protocol."""
    size, found = _size(setting), []
    for options in setting.rules.tests.values():
        subset = dict(zip(options[::2], options[1::2], strict=True)).get("DATASET.SUBSAMPLE_CLASSES", "all")
        found.append(subset_images(size, subset))
    others = [_size(setting, dataset) for dataset in setting.tested_datasets]
    return found + [(other.classes, other.test) for other in others]


def subset_images(size: Size, subset: str) -> tuple[int, int]:
    """Return (classes, test images) of "all", "base" or "new" classes."""
    classes = subset_classes(size.classes, subset)
    return classes, round(size.test * classes / size.classes)


@functools.lru_cache(maxsize=256)
def _evaluation_counts(key: _Key, classes: int, batch: int) -> tuple[int, int, int]:
    """Return (operations once, operations per image, peak bytes of a batch)."""
    work = Workload(key.cfg, workload.synthetic_names(classes), META, key.boosting)
    return *workload.per_image(work.evaluate), work.weights + workload.peak(work.evaluate, batch)


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

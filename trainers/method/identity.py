"""The identity of a boosting prompt: a digest of what determines it, not of its values.

Training the same phase 1 again gives a prompt of the same identity, also on a GPU, where the bits differ.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..backbones import BUILT_IN, find_weights, published_hashes, source_of
from ..config import fields_of, leaves
from ..storage.fingerprints import file_fingerprint
from ..storage.hub import HUB
from .teachers import teacher_files, teacher_names
from .templates import described
from .unlabelled import fingerprint, list_images

# Keys that name weight files; a teacher is recorded under the first of the keys that name one.
STUDENT, TEACHER, FIRST = "MODEL.BACKBONE.NAME", "TRAINER.CASPL.TEACHER.BACKBONE", "MODEL.INIT_WEIGHTS"
TEACHERS = (TEACHER, "TRAINER.CASPL.TEACHER.RUN", "TRAINER.CASPL.TEACHER.RUNS")

# Sections and keys of the configuration that determine phase 1's numbers.
_READ = (
    *("SEED", "INPUT.", "OPTIM.", "DATALOADER.TRAIN_X.", "DATASET.NAME", "DATASET.SUBSAMPLE_CLASSES"),
    *("DATASET.NUM_SHOTS", "TRAINER.CASPL."),
)
# Files and folders: their contents are fingerprinted instead.
_PATHS = tuple(
    f"TRAINER.CASPL.{key}"
    for key in (
        *("CHECKPOINT", "IMAGES", "TEACHER.BACKBONE", "TEACHER.RUN", "TEACHER.RUNS"),
        *("TEACHER.CACHE", "TEACHER.TEMPLATE"),
    )
)


def boosting_identity(cfg: CfgNode, data: str, teacher: str, student: str, added: str = "") -> str:
    """Return the SHA-256 of phase 1's settings, data, teacher and student.

    Settings with their default are left out, so that a key that is added later leaves identities unchanged.

    Args:
        cfg: the whole configuration.
        data: fingerprint of the data.
        teacher: fingerprint of the teacher's weights.
        student: fingerprint of the student's weights.
        added: fingerprint of unlabelled images from other folders; empty: there are none.
    """
    read = {field.name: field for field in fields_of("CasPL") if field.unread is None or not field.unread(cfg)}
    settings: dict[str, Any] = {
        key: value
        for key, value in leaves(cfg)
        if key in read and key.startswith(_READ) and key not in _PATHS and value != read[key].initial()
    }
    settings["cached"] = bool(cfg.TRAINER.CASPL.TEACHER.CACHE)  # a cache rounds the teacher's features
    template = cfg.TRAINER.CASPL.TEACHER.TEMPLATE or getattr(cfg.DATASET, "TEMPLATE", "")
    if template:
        settings["template"] = described(template)
    content = {"settings": settings, "data": data, "teacher": teacher, "student": student}
    content |= {"added": added} if added else {}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()


def data_fingerprint(dataset: Any, root: str) -> str:
    """Return the fingerprint of a dataset.

    Its reader's own is used if it has one, else that of the training images' paths, sizes and classes.

    Args:
        dataset: a Dassl dataset.
        root: the folder that paths are relative to.
    """
    own = getattr(dataset, "data_fingerprint", "")
    if own:
        return own
    digest = hashlib.sha256(json.dumps(list(dataset.classnames)).encode())
    for item in dataset.train_x:
        size = os.stat(item.impath).st_size if os.path.exists(item.impath) else -1
        digest.update(f"{os.path.relpath(item.impath, root)}\t{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def backbone_fingerprint(name: str) -> str:
    """Return the SHA-256 of a backbone.

    It is that of its file, or of its files and configuration for another library's CLIP.

    Raises:
        BackboneError: it cannot be found, or the engine does not compute it.
    """
    source = source_of(name)
    if source is None:
        return weights_fingerprint(find_weights(name))
    content = {"weights": weights_fingerprint(*source.files), "function": source.described()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_UNKNOWN = (ValueError, OSError, KeyError, TypeError)  # files that are not here, another toolbox's, or a damaged run's


def planned_identity(cfg: CfgNode, data: str) -> str:
    """Return the identity of the prompt that phase 1 would learn.

    It is empty if it cannot be known before.

    Args:
        cfg: the configuration of phase 1.
        data: fingerprint of the data.
    """
    weights = local_weights(cfg)
    if not weights.get(TEACHER) or not weights.get(STUDENT):
        return ""
    folders = cfg.TRAINER.CASPL.IMAGES
    added = fingerprint(list_images(folders), folders) if folders else ""
    return boosting_identity(cfg, data, weights[TEACHER], weights[STUDENT], added)


def local_weights(cfg: CfgNode) -> dict[str, str]:
    """Return {key: SHA-256} of existing weight files that a configuration names.

    Nothing is downloaded.
    """
    made: dict[str, Callable[[], str]] = {STUDENT: lambda: backbone_fingerprint(_local(cfg.MODEL.BACKBONE.NAME))}
    if cfg.TRAINER.NAME == "CasPL":
        made[TEACHER] = lambda: weights_fingerprint(*_teacher_files(cfg))
    if cfg.MODEL.INIT_WEIGHTS:
        made[FIRST] = lambda: weights_fingerprint(Path(cfg.MODEL.INIT_WEIGHTS))
    found = {}
    for key, make in made.items():
        with contextlib.suppress(*_UNKNOWN):
            found[key] = make()
    return found


def _teacher_files(cfg: CfgNode) -> list[Path]:
    names = teacher_names(cfg.TRAINER.CASPL.TEACHER)
    return [path for name in names for path in teacher_files(_local(name))]


def repeated_teacher(cfg: CfgNode) -> tuple[str, str] | None:
    """Return two of phase 1's teachers that are the same one; else None.

    They are compared by content where it is available.
    """
    seen: dict[Any, str] = {}
    for name, shown in zip(teacher_names(cfg.TRAINER.CASPL.TEACHER), cfg.TRAINER.CASPL.TEACHER.RUNS, strict=False):
        content: Any = name
        with contextlib.suppress(*_UNKNOWN):
            content = weights_fingerprint(*teacher_files(_local(name)))
        if content in seen:
            return seen[content], shown
        seen[content] = shown
    return None


def _local(name: str) -> str:
    """Return a name.

    Raises:
        FileNotFoundError: its files would have to be downloaded.
    """
    if HUB in name or not _is_local(name):
        raise FileNotFoundError(name)
    return name


def _is_local(name: str) -> bool:
    known = published_hashes()
    return Path(name).exists() or name in BUILT_IN or ":" in name or (name in known and known[name][0].is_file())


def compare_weights(cfg: CfgNode, recorded: Mapping[str, str]) -> tuple[set[str], list[str]]:
    """Compare the weight files that a configuration names with those that a run was made with.

    Args:
        cfg: the configuration.
        recorded: {key: SHA-256} of the run's files; keys that it lacks are not compared.

    Returns:
        The keys whose files have the recorded content, also under another name, and a line for each other file.
    """
    ours = local_weights(cfg)
    compared = [key for key in ours if recorded.get(key)]
    same = {key for key in compared if ours[key] == recorded[key]}
    lines = [
        f"{key}: a file with the sha256 {recorded[key][:12]} -> {ours[key][:12]}" for key in compared if key not in same
    ]
    return same | ({*TEACHERS} if TEACHER in same else set()), lines


def image_settings(cfg: CfgNode) -> dict[str, Any]:
    """Return how images become the student's input, as prompt files record it."""
    normalized = "normalize" in cfg.INPUT.TRANSFORMS
    return {
        "size": cfg.INPUT.SIZE[0],
        "mean": list(cfg.INPUT.PIXEL_MEAN) if normalized else [0.0] * 3,
        "std": list(cfg.INPUT.PIXEL_STD) if normalized else [1.0] * 3,
        "interpolation": cfg.INPUT.INTERPOLATION,
    }


def weights_fingerprint(*paths: Path) -> str:
    """Return the SHA-256 of files of weights, computed once per process for unchanged files."""
    digests = []
    for path in paths:
        status = path.stat()
        digests.append(_fingerprint(path, status.st_size, status.st_mtime_ns))
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


@functools.lru_cache
def _fingerprint(path: Path, size: int, modified: int) -> str:
    return file_fingerprint(path)

"""The identity of a run: what determines its numbers, compared before its files are used for another command.

`identity.json` in a run's folder, its `progress.pt` and its checkpoints hold the same dictionary: the data's fingerprint
and class names, the settings, and the fingerprints of backbone, teacher and boosting prompt. It is computed from recipe,
data and weight files, not from what was trained: training the same phase 1 again leaves later runs valid.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..config import FIELDS, ConfigError, is_place, leaves, used, value_of
from ..config.yaml_files import read_yaml
from ..method.identity import (
    FIRST,
    STUDENT,
    TEACHER,
    backbone_fingerprint,
    compare_weights,
    data_fingerprint,
    weights_fingerprint,
)
from ..method.templates import described, is_file
from ..storage.atomic import replacing
from ..storage.tensors import RestrictedReadError, read_checkpoint
from . import provenance
from .checkpoints import LATEST, PROGRESS, latest_checkpoint

logger = logging.getLogger(__name__)

FILE_NAME = "identity.json"  # in a run's folder
FORMAT = 1
MOST_BYTES = 1 << 26  # of identity.json; ImageNet's class names take less than a megabyte

# Files that are compared by their fingerprints, and keys that change no number; like those of `is_place`, not compared.
_APART = (
    *("TRAINER.NAME", "MODEL.BACKBONE.NAME", "MODEL.INIT_WEIGHTS", "TRAINER.CASPL.IMAGES"),
    *(f"TRAINER.CASPL.TEACHER.{key}" for key in ("BACKBONE", "CACHE", "RUN", "RUNS")),
    *("TRAIN.CHECKPOINT_FREQ", "TEST.PER_CLASS_RESULT", "TEST.COMPUTE_CMAT"),
)
# A cache rounds the teacher's features, wherever it is.
_ROUNDING = ("TRAINER.CASPL.TEACHER.CACHE", "TRAINER.PROMPTKD.CACHE")
_TEMPLATES = ("DATASET.TEMPLATE", "TRAINER.CASPL.TEACHER.TEMPLATE")
_OF_PHASE_2 = ("TRAINER.CASPL.TEXT_ORDER", "TRAINER.CASPL.JOINT")  # the others are those of the boosting prompt's file
# Settings that change what a trained prompt computes; of phase 2's below TRAINER.CASPL, only these two.
_APPLIED = ("TRAINER.", "INPUT.SIZE", "INPUT.PIXEL_", "INPUT.INTERPOLATION")
_PHASE_1_ONLY = ("TRAINER.CASPL.TEACHER.", "TRAINER.CASPL.CLASSES", "TRAINER.CASPL.TEMPERATURE")
_FILES = ("teacher", "first weights")
_WITHOUT = {"first weights": "none", "added images": "none"}  # what an identity denotes that lacks them
_FREE = (".PREC",)  # a trained prompt may be evaluated in another precision


def of_trainer(trainer: Any, cfg: CfgNode) -> dict:
    """Return the identity of the run of a built Dassl trainer.

    Args:
        trainer: the trainer, whose own `cfg` may name the host only.
        cfg: the run's configuration.
    """
    dataset, boosting = trainer.dm.dataset, getattr(trainer, "boosting_info", None)
    teacher = getattr(getattr(trainer, "teacher", None), "paths", ())
    content = {
        "format": FORMAT,
        "trainer": cfg.TRAINER.NAME.replace("-", "_"),
        "data": {
            "dataset": cfg.DATASET.NAME,
            "fingerprint": data_fingerprint(dataset, cfg.DATASET.ROOT),
            "classes": list(dataset.classnames),
        },
        "settings": settings(cfg),
        "backbone": _backbone(cfg),
        "teacher": weights_fingerprint(*teacher) if teacher else "",
        "boosting": getattr(boosting, "identity", ""),
    }
    first = cfg.MODEL.INIT_WEIGHTS
    content["first weights"] = weights_fingerprint(Path(first)) if first else "none"
    if hasattr(trainer, "added_data"):
        content["added images"] = trainer.added_data or "none"
    return content | {"digest": digest(content)}


def digest(content: dict) -> str:
    """Return the SHA-256 of an identity without its entry "digest"."""
    text = json.dumps({key: value for key, value in content.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def settings(cfg: CfgNode) -> dict[str, Any]:
    """Return the settings that determine numbers, as JSON stores them.

    Those of other trainers do not.
    """
    return _compared(dict(leaves(used(cfg))))


def _compared(read: dict[str, Any]) -> dict[str, Any]:
    """Return the compared ones of {key: value}; existing template files count by their content."""
    found = {key: value for key, value in read.items() if key not in _APART and not is_place(key)}
    found |= {key: bool(read[key]) for key in _ROUNDING if key in read}
    for key in _TEMPLATES:
        if found.get(key) and (not is_file(found[key]) or Path(found[key]).is_file()):
            found[key] = described(found[key])
    return json.loads(json.dumps(found, default=list, sort_keys=True))  # sorted: the same bytes in every process


def _backbone(cfg: CfgNode) -> str:
    try:
        return backbone_fingerprint(cfg.MODEL.BACKBONE.NAME)
    except (ValueError, OSError):  # another toolbox's backbone, which this package does not load
        return ""


def differences(ours: dict, theirs: dict) -> list[str]:
    """Return what differs between two identities, as "what: theirs -> ours".

    A setting that theirs lacks counts as its default: a later version added it. Other entries that one of them lacks are
    unknown and do not count.
    """
    theirs = _WITHOUT | theirs if theirs else theirs
    changed = _changed(ours, theirs, ("trainer", "backbone", *_FILES, "boosting", "added images"))
    our_data, their_data = ours.get("data", {}), theirs.get("data", {})
    changed += _changed(our_data, their_data, ("dataset", "classes", "fingerprint"), "data's ")
    return changed + [line for line in _changed_settings(ours, theirs) if _read(ours, line.partition(":")[0])]


def _read(identity: dict, key: str) -> bool:
    """Return whether a run reads a setting: phase 2 takes phase 1's from the boosting prompt's file."""
    phase_2 = identity.get("trainer", "").startswith("CasPL_")
    return not (phase_2 and key.startswith("TRAINER.CASPL.")) or key in _OF_PHASE_2


def differences_applied(ours: dict, theirs: dict) -> list[str]:
    """Return how an evaluation differs from the training of its checkpoint.

    Only what changes the function of the trained prompt counts.
    """
    changed = _changed(ours, theirs, ("trainer", "backbone", "boosting"))
    one, other = (identity.get("settings", {}).get("INPUT.TRANSFORMS", []) for identity in (theirs, ours))
    if theirs.get("settings") and ("normalize" in one) != ("normalize" in other):
        changed.append(f"INPUT.TRANSFORMS: {one!r} -> {other!r}")

    def applied(key: str) -> bool:
        if not key.startswith(_APPLIED) or key.endswith(_FREE) or key.startswith(_PHASE_1_ONLY):
            return False
        return _read(ours, key)

    return changed + [line for line in _changed_settings(ours, theirs) if applied(line.partition(":")[0])]


def _changed(ours: dict, theirs: dict, keys: tuple[str, ...], prefix: str = "") -> list[str]:
    pairs = [(key, theirs.get(key), ours.get(key)) for key in keys]
    return [f"{prefix}{key}: {_short(old, new)}" for key, old, new in pairs if old and new and old != new]


def _changed_settings(ours: dict, theirs: dict) -> list[str]:
    current = ours.get("settings", {})
    if not theirs.get("settings"):
        return []
    known = _compared(theirs["settings"])
    kept = {key: _default(key) for key in current} | known
    changed = [f"{key}: {kept[key]!r} -> {value!r}" for key, value in current.items() if kept[key] != value]
    newer = [key for key in known if "format" in theirs and key not in current and key not in FIELDS]
    return changed + [f"{key}: {known[key]!r} -> not a key of this version" for key in newer]


def _default(key: str) -> Any:
    """Return the value that a missing setting counts as; another toolbox's default is unknown."""
    if key not in FIELDS:
        return "not recorded"
    return _compared({key: FIELDS[key].initial()}).get(key)


def _short(old: Any, new: Any) -> str:
    """Describe a change; of long lists only the first difference."""
    if isinstance(old, list) and isinstance(new, list):
        places = [i for i in range(min(len(old), len(new))) if old[i] != new[i]]
        first = (old[places[0]], new[places[0]]) if places else (f"{len(old)} names", f"{len(new)} names")
        return f"{first[0]} -> {first[1]}"
    return f"{str(old)[:40]} -> {str(new)[:40]}"


def check_same(ours: dict, theirs: dict, where: Path, remedy: str) -> None:
    """Raise `ConfigError` with the first differences between two identities."""
    if changed := differences(ours, theirs):
        raise ConfigError(f"{where} holds a run with other settings or data ({'; '.join(changed[:5])}): {remedy}")


def class_rows(names: list[str], theirs: dict, folder: Path) -> list[int] | None:
    """Return which trained class-specific contexts the current classes have.

    They are found by name.

    Args:
        names: the current class names.
        theirs: the identity of the training.
        folder: the run's folder, whose provenance names the classes where the identity does not.

    Returns:
        The rows in the order of `names`; None for the same classes in the same order, or if the trained ones are unknown.

    Raises:
        ConfigError: a class was not trained, or two have the same name.
    """
    trained = theirs.get("data", {}).get("classes")
    if not trained and (folder / provenance.FILE_NAME).is_file():
        trained = provenance.kept(folder)[-1].get("class_names")
    if not trained or list(trained) == list(names):
        return None
    more = [name for name in names if trained.count(name) != 1]
    if more:
        raise ConfigError(
            f"{folder}: its class-specific contexts (CSC) were trained for {len(trained)} classes ({', '.join(trained[:3])}, "
            f"...), but are evaluated on {len(names)}, among them {', '.join(more[:3])}; expected classes that were trained, "
            "each name once. Evaluate on them, or train without CSC"
        )
    logger.info("Class-specific contexts of %d of the %d trained classes, found by name", len(names), len(trained))
    return [trained.index(name) for name in names]


def check_first_classes(names: list[str], path: Path) -> None:
    """Check that first class-specific contexts are those of these classes.

    Args:
        names: the current class names.
        path: the checkpoint that `MODEL.INIT_WEIGHTS` names.

    Raises:
        ConfigError: they were trained for other classes, or in another order.
    """
    content = read_checkpoint(path) if path.suffix != ".safetensors" else {}
    kept = content.get("identity") if isinstance(content, dict) else None
    trained = parse(kept, path)["data"]["classes"] if isinstance(kept, str) else None
    if trained is None:
        logger.warning("MODEL.INIT_WEIGHTS: %s does not record its classes; taken as those of this run", path)
    elif trained != names:
        raise ConfigError(
            f"MODEL.INIT_WEIGHTS: {path}: its class-specific contexts (CSC) belong to {len(trained)} classes "
            f"({', '.join(trained[:3])}, ...); expected the {len(names)} of this run ({', '.join(names[:3])}, ...) in their "
            "order. Leave it out, or train without CSC"
        )


def write(folder: Path, content: dict) -> None:
    """Write a run's identity to its folder."""
    with replacing(folder / FILE_NAME) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> dict:
    """Return the identity of the run in a folder.

    Of version 0.1.0, which kept none, that of its config.yaml.

    Raises:
        ConfigError: the file is damaged.
    """
    path, config_file = folder / FILE_NAME, folder / "config.yaml"
    if path.is_file():
        return parse(_text(path), path)
    if (kept := next(recorded(folder), None)) is not None:
        logger.warning("%s: no %s; taken from its checkpoints", folder, FILE_NAME)
        return kept
    if config_file.is_file() and config_file.stat().st_size:
        logger.warning("%s: no %s, as in version 0.1.0; data and backbone are not compared", folder, FILE_NAME)
        return _of_config(config_file)
    return {}


def recorded_weights(folder: Path) -> dict[str, str]:
    """Return {key: SHA-256} of the weight files that a run was trained with.

    Empty if they are unknown.

    Raises:
        ConfigError: identity.json is damaged.
    """
    content = read(folder) if (folder / FILE_NAME).is_file() else {}
    return {
        STUDENT: content.get("backbone", ""),
        TEACHER: content.get("teacher", ""),
        FIRST: content.get("first weights", ""),
    }


def moved_weights(cfg: CfgNode, folder: Path) -> set[str]:
    """Return the keys whose files have the content of the run's.

    They are files of weights or texts, wherever they are now.
    """
    kept = read(folder) if (folder / FILE_NAME).is_file() else {}
    ours, theirs = settings(cfg), kept.get("settings", {})
    texts = {
        key for key in _TEMPLATES if ours.get(key) and is_file(str(value_of(cfg, key))) and ours[key] == theirs.get(key)
    }
    return texts | compare_weights(cfg, recorded_weights(folder))[0]


def recorded(folder: Path) -> Iterator[dict]:
    """Yield the identities in a run's progress and last checkpoints.

    They are there without the run's other files.
    """
    latest = [latest_checkpoint(pointer.parent) for pointer in folder.glob(f"*/{LATEST}")]
    for path in (folder / PROGRESS, *latest):
        if path is None or not path.is_file():
            continue
        try:
            content = read_checkpoint(path)
        except RestrictedReadError:  # loading it reports the damage
            continue
        kept = content.get("identity") if isinstance(content, dict) else None
        if isinstance(kept, str):
            yield parse(kept, path)


def _text(path: Path) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; expected at most {MOST_BYTES:,}. Remove the folder")
    return path.read_text(encoding="utf-8", errors="replace")


def parse(text: str, source: Path) -> dict:
    """Return the identity in a file's text, its digest checked.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        content = json.loads(text)
        intact = content["digest"] == digest(content) and isinstance(content["data"]["classes"], list)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{source}: not an identity ({error!r}). Remove the folder to train again") from error
    if not intact:
        raise ConfigError(
            f"{source}: its digest does not fit its content, so it was changed. Remove the folder to train again"
        )
    return content


def _of_config(path: Path) -> dict:
    kept = dict(leaves(read_yaml(path)))
    name, first = str(kept.get("TRAINER.NAME", "")).replace("-", "_"), str(kept.get("MODEL.INIT_WEIGHTS", "") or "")
    found = {"trainer": name, "settings": _compared(kept)}
    if first:
        found["first weights"] = weights_fingerprint(Path(first)) if Path(first).is_file() else ""
    return found | ({"added images": ""} if kept.get("TRAINER.CASPL.IMAGES") else {})

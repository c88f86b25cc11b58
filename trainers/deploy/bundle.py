"""What is shared of a run: prompts of both phases as safetensors, settings, provenance and a model card."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

from ..config import FIELDS, is_place, leaves
from ..experiments.setup import assemble
from ..hosts.base import HostTrainer
from ..method.prompt_file import FILE_NAME as BOOSTING
from ..method.prompt_file import BoostingInfo, boosting_item, load_boosting, save_boosting
from ..storage.atomic import replacing, sha256
from ..storage.hub import CONFIG, FORMAT, HUB
from ..storage.tensors import read_checkpoint
from ..training import provenance
from ..training.checkpoints import find_checkpoint
from ..training.class_vectors import read_class_vectors
from ..training.learned_file import LEARNED, save_learned
from ..training.run import own_class
from ..version import __version__
from .card import model_card
from .figures import figures_of

logger = logging.getLogger(__name__)


def _is_left_out(key: str) -> bool:
    """Return whether a setting is a place on this machine; the teacher's cache is no `place`, since it rounds features."""
    return key == "TRAINER.CASPL.TEACHER.CACHE" or (is_place(key) and FIELDS[key].path)


def bundle(source: Path, target: Path) -> list[Path]:
    """Write what is shared of a run into an empty folder.

    CLIP's weights and machine paths are left out.

    Args:
        source: a finished run's folder, that of phase 1, or a boosting-prompt file.
        target: the folder to write to.

    Returns:
        The files.

    Raises:
        FileNotFoundError: the run is not finished.
        CheckpointError: the boosting prompt cannot be read.
    """
    target.mkdir(parents=True, exist_ok=True)
    return _bundle_prompt(source, target) if source.is_file() else _bundle_run(source, target)


def _bundle_prompt(source: Path, target: Path) -> list[Path]:
    info = _share_boosting(source, target / BOOSTING)
    ledger = [boosting_item(info)]
    provenance.keep(target, ledger)
    card = model_card("CasPL", info.student, info.teacher, ledger, {})
    (target / "README.md").write_text(card, encoding="utf-8")
    return _describe(target, {"trainer": "CasPL", "backbone": info.student, "class_names": info.class_names})


def _bundle_run(run: Path, target: Path) -> list[Path]:
    cfg = assemble([], [], evaluated=run).clone()
    cfg.defrost()
    ledger, teacher = provenance.kept(run), ""
    if (run / BOOSTING).is_file():
        teacher = _share_boosting(run / BOOSTING, target / BOOSTING).teacher
    host = own_class(cfg.TRAINER.NAME)
    if host is not None and issubclass(host, HostTrainer):
        _share_learned(run, host.learner_name, target / LEARNED)
        if read_class_vectors(target, host.learner_name) is None:
            _warn_about_teacher(str(cfg.TRAINER[host.node].get("TEACHER", "")))
    for key, value in list(leaves(cfg)):
        if _is_left_out(key):
            cfg.merge_from_list([key, ""])
        elif isinstance(value, str):
            cfg.merge_from_list([key, _name_of(value)])
    (target / "config.yaml").write_text(cfg.dump())
    provenance.keep(target, ledger)
    figures = figures_of(run)
    (target / "README.md").write_text(
        model_card(cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME, teacher, ledger, figures), encoding="utf-8"
    )
    described = {
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "class_names": ledger[-1]["class_names"],
        "settings": {key: value for key, value in leaves(cfg) if not _is_left_out(key)},
        "result": figures,
    }
    return _describe(target, described)


def _describe(target: Path, described: dict) -> list[Path]:
    """Write `config.json` last, with the checksums of all other files; return the files."""
    files = sorted(path for path in target.iterdir() if path.name != CONFIG)
    checksums = {path.name: sha256(path) for path in files}
    content = {"format": FORMAT, "library_name": "caspl", "caspl": __version__, **described, "checksums": checksums}
    with replacing(target / CONFIG) as aside:
        aside.write_text(json.dumps(content, indent=2, default=str) + "\n")
    return [*files, target / CONFIG]


def _share_learned(run: Path, learner: str, target: Path) -> None:
    if (run / LEARNED).is_file():
        shutil.copyfile(run / LEARNED, target)
    else:  # a run of an earlier version
        save_learned(read_checkpoint(find_checkpoint(run / learner, None))["state_dict"], target)


def _warn_about_teacher(teacher: str) -> None:
    """Log that a student whose class vectors come from its teacher cannot be loaded without a run on this machine."""
    if "run:" in teacher.replace(f"run:{HUB}", ""):
        logger.warning(
            "Warning: loading this run needs its teacher %s: push it, and train with run:%s...", teacher, HUB
        )


def _share_boosting(source: Path, target: Path) -> BoostingInfo:
    """Copy a boosting prompt and return its metadata; of weights in files, only the files' names stay."""
    group, info = load_boosting(source)
    shared = dataclasses.replace(info, student=_name_of(info.student), teacher=_name_of(info.teacher))
    save_boosting(target, group, shared)
    return shared


def _name_of(weights: str) -> str:
    """Return the name of weights without the folder of an absolute path, which may follow "run:"."""
    kind, colon, path = weights.rpartition(":")
    if Path(weights).is_absolute():
        return Path(weights).name
    return f"{kind}{colon}{Path(path).name}" if Path(path).is_absolute() else weights

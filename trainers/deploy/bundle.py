"""What is shared of a run: prompts of both phases as safetensors, settings, provenance and a model card."""

import dataclasses
import json
import shutil
from pathlib import Path

from ..config import leaves
from ..experiments.setup import assemble
from ..hosts.base import HostTrainer
from ..method.prompt_file import FILE_NAME as BOOSTING
from ..method.prompt_file import load_boosting, save_boosting
from ..storage.atomic import replacing, sha256
from ..storage.tensors import read_checkpoint
from ..training import provenance
from ..training.checkpoints import LEARNED, find_checkpoint, save_learned
from ..training.run import own_class
from ..version import __version__
from .card import model_card
from .hub import CONFIG, FORMAT

_PLACES = ("OUTPUT_DIR", "DATASET.ROOT", "RESUME", "TRAINER.CASPL.CHECKPOINT", "TRAINER.CASPL.TEACHER.CACHE")


def bundle(run: Path, target: Path) -> list[Path]:
    """Write what is shared of a run into an empty folder; CLIP's weights and machine paths are left out.

    Args:
        run: a finished run's folder, or that of phase 1.
        target: the folder to write to.

    Returns:
        The files.

    Raises:
        FileNotFoundError: the run is not finished.
    """
    cfg = assemble([], [], evaluated=run).clone()
    cfg.defrost()
    ledger = provenance.kept(run)
    target.mkdir(parents=True, exist_ok=True)
    if (run / BOOSTING).is_file():
        _share_boosting(run / BOOSTING, target / BOOSTING)
    host = own_class(cfg.TRAINER.NAME)
    if host is not None and issubclass(host, HostTrainer):
        if (run / LEARNED).is_file():
            shutil.copyfile(run / LEARNED, target / LEARNED)
        else:  # a run of an earlier version
            state = read_checkpoint(find_checkpoint(run / host.learner_name, None))["state_dict"]
            save_learned(state, target / LEARNED)
    for key, value in list(leaves(cfg)):
        if key in _PLACES:
            cfg.merge_from_list([key, ""])
        elif isinstance(value, str):
            cfg.merge_from_list([key, _name_of(value)])
    (target / "config.yaml").write_text(cfg.dump())
    provenance.keep(target, ledger)
    result = _result(run)
    (target / "README.md").write_text(model_card(cfg, ledger, result))
    files = sorted(path for path in target.iterdir() if path.name != CONFIG)
    described = {
        "format": FORMAT,
        "library_name": "caspl",
        "caspl": __version__,
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "class_names": ledger[-1]["class_names"],
        "settings": {key: value for key, value in leaves(cfg) if key not in _PLACES},
        "result": result,
        "checksums": {path.name: sha256(path) for path in files},
    }
    with replacing(target / CONFIG) as aside:
        aside.write_text(json.dumps(described, indent=2, default=str) + "\n")
    return [*files, target / CONFIG]


def _share_boosting(source: Path, target: Path) -> None:
    """Copy a boosting prompt; of weights in files, only the files' names stay."""
    group, info = load_boosting(source)
    names_only = dataclasses.replace(info, student=_name_of(info.student), teacher=_name_of(info.teacher))
    save_boosting(target, group, names_only)


def _name_of(weights: str) -> str:
    return Path(weights).name if Path(weights).is_absolute() else weights


def _result(run: Path) -> dict | None:
    path = run / "result.json"
    return json.loads(path.read_text()) if path.is_file() else None

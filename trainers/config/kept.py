"""The configuration that a run keeps in its folder, compared with the current one."""

from pathlib import Path

from yacs.config import CfgNode

from ..storage.atomic import replacing
from .errors import ConfigError
from .merge import leaves, merge_file, value_of

# Where a run happens, not what it is (a run keeps a copy of its boosting prompt, which is compared itself).
_PLACES = (
    *("OUTPUT_DIR", "RESUME", "DATASET.ROOT", "TRAINER.CASPL.CHECKPOINT"),
    *("DATALOADER.NUM_WORKERS", "VERBOSE", "USE_CUDA", "TRAIN.PRINT_FREQ"),
)


def differences(ours: CfgNode, theirs: CfgNode) -> list[str]:
    """The settings in which two configurations differ, as "KEY: theirs -> ours"; where a run happens does not count."""
    changed = [key for key in differing(ours, theirs) if key not in _PLACES]
    return [f"{key}: {dict(leaves(theirs)).get(key)!r} -> {value_of(ours, key)!r}" for key in changed]


def differing(ours: CfgNode, theirs: CfgNode) -> list[str]:
    """The keys of `ours` that have another value in `theirs`."""
    others = dict(leaves(theirs))
    return [key for key, value in leaves(ours) if others.get(key) != value]


def keep_config(cfg: CfgNode, path: Path) -> None:
    """Write the configuration beside the run, after `check_kept`."""
    check_kept(cfg, path)
    with replacing(path) as aside:
        aside.write_text(cfg.dump())


def check_kept(cfg: CfgNode, path: Path) -> None:
    """Compare the configuration with the one that was kept beside a run, if there is one.

    Raises:
        ConfigError: they differ: the folder has a run with other settings in it.
    """
    if not path.is_file():
        return
    kept = cfg.clone()
    kept.defrost()
    merge_file(kept, path)
    if changed := differences(cfg, kept):
        raise ConfigError(
            f"{path.parent} holds a run with other settings ({'; '.join(changed[:5])}): remove the folder, or give another "
            "--output-dir"
        )

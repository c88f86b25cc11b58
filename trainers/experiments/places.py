"""Where configurations, datasets and outputs are, in a checkout and when installed."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from ..storage.atomic import replacing

PACKAGE = __name__.rpartition(".experiments")[0]  # "trainers" in a checkout, "caspl" when installed
_HERE = Path(__file__).resolve().parents[1]
_CHECKOUT = _HERE.parent

CONFIGS = next(folder for folder in (_HERE / "configs", _CHECKOUT / "configs") if (folder / "datasets").is_dir())
ROOT = _CHECKOUT if CONFIGS.parent == _CHECKOUT else Path.cwd()  # of the default data and output folders


def datasets_package() -> str:
    """Return the name of this project's datasets package.

    It is `caspl.datasets`, or a checkout's `datasets`.
    """
    installed = f"{PACKAGE}.datasets"
    return installed if importlib.util.find_spec(installed) else "datasets"


def load_datasets() -> None:
    """Import this project's datasets, which registers them with Dassl.

    They write their files atomically from then on.
    """
    importlib.import_module(datasets_package())
    kept_files: Any = importlib.import_module(f"{datasets_package()}.kept_files")
    kept_files.replacing = replacing


def dataset_files() -> dict[str, Path]:
    """Return {name: its YAML file} of all datasets."""
    return {path.stem: path for path in sorted((CONFIGS / "datasets").glob("*.yaml"))}


def host_names() -> dict[str, str]:
    """Return {command-line name: trainer} of all hosts, which are those with a folder of recipes."""
    folders = sorted(path.name for path in (CONFIGS / "trainers").iterdir() if path.is_dir())
    hosts = [name for name in folders if not name.startswith("CasPL") and name != "ZeroshotCLIP"]
    return {name.lower(): name for name in hosts}


def trainer_file(trainer: str, recipe: str) -> Path:
    """Return the recipe of a trainer; `CasPL_<Host>` without one has its host's."""
    folders = dict.fromkeys((trainer, trainer.removeprefix("CasPL_")))
    files = [CONFIGS / "trainers" / folder / f"{recipe}.yaml" for folder in folders]
    return next((path for path in files if path.is_file()), files[0])

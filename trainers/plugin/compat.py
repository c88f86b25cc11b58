"""Environment fixes that are needed before anything else can be imported.

Each function is a no-op where no fix is needed, and logs what it changed.
"""

import importlib
import importlib.util
import inspect
import logging
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from ..storage.tensors import has_placeholders, read_checkpoint

logger = logging.getLogger(__name__)

_operator_library: torch.library.Library | None = None  # the operators disappear with it


def ensure_torchvision() -> None:
    """Make `import torchvision` work for a CUDA build of it with a CPU-only torch.

    That torchvision cannot load its compiled operators, and its import fails because it attaches Python code to two of
    them. This package calls neither, so declaring their signatures is enough; all transforms work.
    """
    global _operator_library
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _operator_library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _operator_library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
    logger.debug("torchvision is a CUDA build, torch is CPU-only: nms and qnms are declared, not available")


def ensure_dassl() -> None:
    """Make `import dassl` work: the installed Dassl, else the substitute in `third_party/`.

    An installed Dassl is patched where it needs that (see `patch_dassl`).

    Raises:
        ModuleNotFoundError: neither is available.
    """
    found = importlib.util.find_spec("dassl")
    if found is not None:
        patch_dassl(Path((found.submodule_search_locations or [""])[0]))
        return
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "third_party" / "dassl", package / "third_party" / "dassl"):
        if folder.is_dir():
            _import_package("dassl", folder)
            patch_dassl(folder)
            logger.debug("Dassl is not installed: using the substitute in %s", folder)
            return
    raise ModuleNotFoundError(
        "No module named 'dassl'; expected Dassl or this project's substitute for it. Install Dassl.pytorch "
        "(github.com/KaiyangZhou/Dassl.pytorch), or keep the folder third_party/ next to the plug-in"
    )


def _import_package(name: str, folder: Path) -> None:
    """Import the package in `folder` under another name, without `sys.path`."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def patch_dassl(folder: Path) -> None:
    """Patch Dassl 0.6.3, in `folder`, for a current PyTorch.

    The substitute only gets its reader of checkpoints.

    Dassl was written for PyTorch 1: its schedulers pass `verbose`, which PyTorch has removed, and it saves whole objects,
    which `torch.load` rejects. Its import requires `wilds`, and it logs with `print`. Everything is patched in place, so
    a toolbox may have imported it before; only `wilds` matters at the first import.
    """
    warmup = getattr(importlib.import_module("dassl.optim.lr_scheduler"), "_BaseWarmupScheduler", None)
    if warmup is None:
        vars(importlib.import_module("dassl.utils.checkpoint"))["reader"] = read_plain
        return
    if hasattr(warmup, "patched_by_caspl"):
        return
    warmup.patched_by_caspl = True
    show_log()
    if (folder / "data" / "datasets" / "dg" / "wilds").is_dir():
        skip_wilds()
    if "verbose" not in inspect.signature(LRScheduler.__init__).parameters:
        patch_warmup(warmup)
    patch_checkpoints(warmup, importlib.import_module("dassl.utils.torchtools"))


def show_log() -> None:
    """Print this package's log where logging is not set up.

    Dassl prints, and copies what is printed to its log.txt.
    """
    package = logging.getLogger(__name__.partition(".")[0])
    package.setLevel(logging.INFO)
    if not any(isinstance(handler, _PrintingHandler) for handler in package.handlers):
        package.addHandler(_PrintingHandler())


class _PrintingHandler(logging.Handler):
    """Prints, so that Dassl's log file gets it; silent where the program shows logs itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            sys.stdout.write(f"{self.format(record)}\n")


def skip_wilds() -> None:
    """Import Dassl's datasets without the three that need the package `wilds`, if it is not installed.

    If it is, Dassl's module about it disables the log of the whole process, which is enabled again.
    """
    name = "dassl.data.datasets.dg.wilds"
    if not {name, "wilds"} & sys.modules.keys() and importlib.util.find_spec("wilds") is None:
        sys.modules[name] = types.ModuleType(name)
        logger.info("wilds is not installed: skipped Dassl's WILDS datasets")
        return
    importlib.import_module(name)
    if logging.root.manager.disable == logging.WARNING:
        logging.disable(logging.NOTSET)
        logger.info("Dassl's WILDS datasets disable warnings and the log: enabled again")


def patch_warmup(warmup: Any) -> None:
    """Keep `verbose`, which PyTorch has removed, out of Dassl's warm-up schedulers.

    Args:
        warmup: their base class.
    """

    def construct(self, optimizer, successor, warmup_epoch, last_epoch=-1, verbose=False):
        self.successor, self.warmup_epoch = successor, warmup_epoch
        super(warmup, self).__init__(optimizer, last_epoch)

    warmup.__init__ = construct
    logger.info("Patched Dassl's warm-up schedulers: PyTorch %s has no verbose schedulers", torch.__version__)


def patch_checkpoints(warmup: Any, torchtools: Any) -> None:
    """Let Dassl resume and evaluate although `torch.load` rejects the objects in its checkpoints.

    New checkpoints hold the successor of a warm-up scheduler as plain data. Of older ones the tensors and numbers are
    read, and nothing in them is executed: they can be evaluated, and resumed if they were saved without warm-up.

    Args:
        warmup: the base class of Dassl's warm-up schedulers.
        torchtools: `dassl.utils.torchtools`, whose `load_checkpoint` other modules have imported already.
    """

    def state_dict(self):
        return {**super(warmup, self).state_dict(), "successor": self.successor.state_dict()}

    def load_state_dict(self, state):
        own = dict(state)
        successor = own.pop("successor")
        if not isinstance(successor, dict):
            raise ValueError(
                "checkpoint: its scheduler was saved as an object, which is not loaded, since it could run code; expected "
                "plain data. The checkpoint can be evaluated, but not resumed: train again, into another folder"
            )
        self.successor.load_state_dict(successor)
        super(warmup, self).load_state_dict(own)

    warmup.state_dict, warmup.load_state_dict = state_dict, load_state_dict
    torchtools.torch = _SafelyLoadingTorch()
    logger.info("Patched Dassl's checkpoints: saved without objects; objects in older ones are not loaded")


def read_plain(path: str) -> Any:
    """Read a checkpoint of plain data and tensors.

    Raises:
        RestrictedReadError: the file is damaged.
        ValueError: it contains other objects.
    """
    content = read_checkpoint(path)
    if has_placeholders(content):
        raise ValueError(
            f"{path}: contains Python objects besides plain data and tensors, and loading those could run code. If you trust "
            "the file, load it elsewhere and save its state_dict, epoch and val_result again"
        )
    return content


class _SafelyLoadingTorch:
    """`torch` for a module that calls `torch.load`."""

    def __getattr__(self, name: str):
        return getattr(torch, name)

    def load(self, path: str, map_location: Any = None, **options: Any) -> Any:
        """Read tensors and plain data; objects of other classes are left out."""
        return read_checkpoint(path)

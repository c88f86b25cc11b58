"""The few places where the surroundings need help before anything else can be imported.

Each function does nothing where nothing is needed, and says in the log what it did.
"""

import importlib
import importlib.util
import inspect
import logging
import sys
import types
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LRScheduler

from ..storage.tensors import read_checkpoint

logger = logging.getLogger(__name__)

_operator_library = None  # kept alive: the operators vanish with it


def ensure_torchvision():
    """Make `import torchvision` work where a CUDA build of it meets a CPU-only torch.

    That torchvision cannot load its compiled operators, and its import then fails because it attaches Python
    code to two of them. Nothing here calls either, so declaring their signatures is enough; all transforms work.
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
    logger.debug("torchvision is a CUDA build beside a CPU-only torch: nms and qnms are declared, not available")


def ensure_dassl():
    """Make `import dassl` work: the real Dassl wherever it is importable, else the stand-in in `third_party/`.

    Any installed `dassl` wins over the stand-in. The real one is patched where it needs that (see `mend_dassl`).

    Raises:
        ModuleNotFoundError: neither is there.
    """
    found = importlib.util.find_spec("dassl")
    if found is not None:
        mend_dassl(Path(found.submodule_search_locations[0]))
        return
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "third_party" / "dassl", package / "third_party" / "dassl"):
        if folder.is_dir():
            _import_package("dassl", folder)
            logger.debug("Dassl is not installed: using the stand-in in %s", folder)
            return
    raise ModuleNotFoundError(
        "No module named 'dassl': install Dassl.pytorch (github.com/KaiyangZhou/Dassl.pytorch), or keep this "
        "project's third_party/ folder beside the plug-in"
    )


def _import_package(name: str, folder: Path) -> None:
    """Import the package in `folder` under a name of its own, without `sys.path`."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def mend_dassl(folder: Path) -> None:
    """Help Dassl 0.6.3, in `folder`, to run on a current PyTorch; leaves the stand-in alone.

    It was written for PyTorch 1: its schedulers hand on `verbose`, which is gone, and it saves whole objects, which
    `torch.load` now refuses. Its import pulls `wilds`, and it logs with `print`. What is mended is mended in place, so
    it does not matter whether a toolbox has imported it already; but `wilds` is wanted by the first import.
    """
    if (folder / "data" / "datasets" / "dg" / "wilds").is_dir():
        show_log()
        leave_out_wilds()
    warmup = getattr(importlib.import_module("dassl.optim.lr_scheduler"), "_BaseWarmupScheduler", None)
    if warmup is None:
        return
    if "verbose" not in inspect.signature(LRScheduler.__init__).parameters:
        mend_warmup(warmup)
    if torch.__version__ >= (2, 6):
        mend_checkpoints(warmup, importlib.import_module("dassl.utils.torchtools"))


def show_log() -> None:
    """Show this package's log where nobody has set up logging: where Dassl prints, which also goes to its log.txt."""
    package = logging.getLogger(__name__.rpartition(".")[0])
    package.setLevel(logging.INFO)
    package.addHandler(_PrintingHandler())


class _PrintingHandler(logging.Handler):
    """Prints, so that Dassl's file sees it; silent where the program shows logs itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            sys.stdout.write(f"{self.format(record)}\n")


def leave_out_wilds() -> None:
    """Let Dassl import its datasets without the three that need the package `wilds`, where that is not installed.

    Where it is, Dassl's file about it turns off the log of the whole process: it is turned on again.
    """
    name = "dassl.data.datasets.dg.wilds"
    if not {name, "wilds"} & sys.modules.keys() and importlib.util.find_spec("wilds") is None:
        sys.modules[name] = types.ModuleType(name)
        logger.info("wilds is not installed: Dassl goes without its WILDS datasets")
        return
    importlib.import_module(name)
    if logging.root.manager.disable == logging.WARNING:
        logging.disable(logging.NOTSET)
        logger.info("Dassl's WILDS datasets turn off all warnings and all of the log: turned on again")


def mend_warmup(warmup: type) -> None:
    """Let Dassl's warm-up schedulers (their base class is given) keep `verbose` from PyTorch, which has dropped it."""

    def __init__(self, optimizer, successor, warmup_epoch, last_epoch=-1, verbose=False):
        self.successor, self.warmup_epoch = successor, warmup_epoch
        super(warmup, self).__init__(optimizer, last_epoch)

    warmup.__init__ = __init__
    logger.info(
        "PyTorch %s has no verbose schedulers: Dassl's warm-up schedulers no longer ask for it", torch.__version__
    )


def mend_checkpoints(warmup: type, torchtools: types.ModuleType) -> None:
    """Let Dassl resume and evaluate, although `torch.load` refuses the objects in its checkpoints.

    New checkpoints hold the successor of a warm-up scheduler as plain data. Of older ones the tensors and numbers are
    read, and nothing in them is executed: they can be evaluated, and resumed where they were saved without warm-up.

    Args:
        warmup: the base class of Dassl's warm-up schedulers.
        torchtools: `dassl.utils.torchtools`, whose `load_checkpoint` everybody has imported already.
    """

    def state_dict(self):
        return {**super(warmup, self).state_dict(), "successor": self.successor.state_dict()}

    def load_state_dict(self, state):
        own = dict(state)
        successor = own.pop("successor")
        if not isinstance(successor, dict):
            raise ValueError(
                "this checkpoint's scheduler was saved as an object, which is not read (it could run code): it can be "
                "evaluated, but not resumed; train again, into another folder"
            )
        self.successor.load_state_dict(successor)
        super(warmup, self).load_state_dict(own)

    warmup.state_dict, warmup.load_state_dict = state_dict, load_state_dict
    torchtools.torch = _SafelyLoadingTorch()
    logger.info("Dassl's checkpoints are saved without objects in them, and those in older ones are not loaded")


class _SafelyLoadingTorch:
    """`torch` for a module that calls `torch.load`."""

    def __getattr__(self, name: str):
        return getattr(torch, name)

    def load(self, path, map_location=None, **options):
        """Read tensors and plain data; objects of other classes are left out."""
        return read_checkpoint(path)

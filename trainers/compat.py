"""The few places where the surroundings need help before anything else can be imported.

Each function does nothing where nothing is needed, and says in the log what it did.
"""

import importlib
import importlib.util
import logging
import sys
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

_here = Path(__file__).resolve().parent
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

    The stand-in's folder goes to the end of `sys.path`, so that any other `dassl` wins.

    Raises:
        ModuleNotFoundError: neither is there.
    """
    if importlib.util.find_spec("dassl") is not None:
        return
    for folder in (_here.parent / "third_party", _here / "third_party"):
        if (folder / "dassl").is_dir():
            sys.path.append(str(folder))
            logger.debug("Dassl is not installed: using the stand-in in %s", folder)
            return
    raise ModuleNotFoundError(
        "No module named 'dassl': install Dassl.pytorch (github.com/KaiyangZhou/Dassl.pytorch), or keep this "
        "project's third_party/ folder beside the plug-in"
    )

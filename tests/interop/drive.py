"""Runs a program of a checkout as a user would, on a machine that lacks what its authors had.

    cd CHECKOUT; PYTHONPATH=.../tests python -m interop.drive train.py ARGUMENTS...

There is no GPU here and perhaps not all that Dassl requires, so `.cuda()` stays on the CPU, and packages that are
missing are stood in for by what little of them Dassl touches. IMPORTED_LATE is set in the environment if the program
imports `caspl` after Dassl.
"""

import importlib.machinery
import importlib.util
import os
import runpy
import sys
import types

import torch
from torch import nn


def stand_in(name, **attributes):
    """Put a module with these attributes in place of one that is not installed, its parents too."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        part = ".".join(parts[:end])
        if part not in sys.modules:
            sys.modules[part] = types.ModuleType(part)
            sys.modules[part].__spec__ = importlib.machinery.ModuleSpec(part, loader=None)
    vars(sys.modules[name]).update(attributes)


def complete_dassl():
    """Dassl's requirements, as far as they are missing. Not `wilds`: CasPL helps with that itself."""
    if importlib.util.find_spec("gdown") is None:
        stand_in("gdown")
    if importlib.util.find_spec("tabulate") is None:
        stand_in("tabulate", tabulate=lambda table, **kwargs: "\n".join(str(row) for row in table))
    if importlib.util.find_spec("sklearn") is None:
        stand_in("sklearn.metrics", f1_score=lambda *args, **kwargs: 0.0, confusion_matrix=None)
    for name in ("wandb", "matplotlib.pyplot", "pandas", "seaborn", "prettytable", "nltk", "plotnine", "cv2"):
        if importlib.util.find_spec(name.split(".")[0]) is None:
            stand_in(name)
    if importlib.util.find_spec("thop") is None:
        stand_in("thop", profile=None, clever_format=None)
    if importlib.util.find_spec("tensorboard") is None:
        stand_in("torch.utils.tensorboard", SummaryWriter=Writer)


class Writer:
    """A TensorBoard log that is thrown away."""

    def __init__(self, **kwargs):
        pass

    def add_scalar(self, *args):
        pass

    def close(self):
        pass


def complete_for_late_import():
    """Do what `import caspl` does for later imports, for a program that imports it last."""
    for name in ("wilds", "pandas"):
        if importlib.util.find_spec(name) is None:
            stand_in(name, get_dataset=None)
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        global operators
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def without_cuda():
    """Keep everything on the CPU where no GPU exists: `.cuda()` and `.to("cuda")` are no-ops.

    `.half()` is one too, unless CASPL_HALF is set in the environment.
    """
    if torch.cuda.is_available():
        return
    torch.Tensor.cuda = nn.Module.cuda = lambda self, *args, **kwargs: self
    if "CASPL_HALF" not in os.environ:
        torch.Tensor.half = nn.Module.half = lambda self, *args, **kwargs: self
    for owner in (torch.Tensor, nn.Module):
        owner.to = staying(owner.to)


def in_float64():
    """Compute everything in float64, which separates rounding from mistakes."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.type, torch.Tensor.to, nn.Module.to = map(widening, (torch.Tensor.type, torch.Tensor.to, nn.Module.to))
    for owner in (torch.Tensor, nn.Module):
        owner.float = owner.double


def widening(convert):
    """Return a conversion that takes float64 for float32."""

    def converted(self, *args, **kwargs):
        args = [torch.float64 if each is torch.float32 else each for each in args]
        return convert(self, *args, **kwargs)

    return converted


def staying(to):
    """`to` that takes a GPU for the CPU."""

    def moved(self, *args, **kwargs):
        return to(self, *map(at_home, args), **{key: at_home(value) for key, value in kwargs.items()})

    return moved


def at_home(value):
    """The CPU for any GPU."""
    return "cpu" if isinstance(value, str | torch.device) and str(value).startswith("cuda") else value


def prepare():
    """Do all of that. `python -m` puts the current folder, the checkout, first in the path, as for its own programs."""
    without_cuda()
    complete_dassl()
    if "IMPORTED_LATE" in os.environ:
        complete_for_late_import()


if __name__ == "__main__":
    prepare()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")

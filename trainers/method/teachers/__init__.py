"""Teachers of phase 1. A module in this folder with a subclass of `Teacher` adds a kind of teacher."""

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from ...config import is_run
from ...engine.precision import Precision
from ..templates import check_template
from .base import KEY, Teacher, kinds
from .ensemble import MEANS, Ensemble
from .run import PREFIX
from .transform import TeacherTransform

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "KEY",
    "MEANS",
    "Ensemble",
    "Teacher",
    "TeacherTransform",
    "load_teacher",
    "load_teachers",
    "teacher_files",
    "teacher_names",
]


def teacher_names(node: CfgNode) -> list[str]:
    """Return the names of the teachers of phase 1, as `load_teacher` takes them.

    Args:
        node: `TRAINER.CASPL.TEACHER`; RUNS precede RUN, which precedes BACKBONE.
    """
    if node.RUNS:
        return [
            _of_run(name) if name.startswith(("hf-hub:", "local-dir:")) or is_run(name) else name for name in node.RUNS
        ]
    return [_of_run(node.RUN) if node.RUN else node.BACKBONE]


def _of_run(name: str) -> str:
    return name if name.startswith(f"{PREFIX}:") else f"{PREFIX}:{name}"


def load_teachers(
    chosen: Sequence[str], mean: str, names: Sequence[str], template: str, precision: Precision
) -> Teacher:
    """Load one teacher or an ensemble of several.

    Args:
        chosen: names as of `load_teacher`.
        mean: how an ensemble averages, see `Ensemble`.
        names, template, precision: as of `load_teacher`.
    """
    members = [load_teacher(name, names, template, precision) for name in chosen]
    return members[0] if len(members) == 1 else Ensemble(members, mean).requires_grad_(False).eval()


def load_teacher(name: str, names: Sequence[str], template: str, precision: Precision) -> Teacher:
    """Load a teacher, frozen and in eval mode, on the CPU.

    Args:
        name: what `load_clip` takes, or "<prefix>:<name>" for another kind, such as
            "open_clip:<architecture>/<tag or file>" or "run:<folder of a finished run>".
        names: the class names.
        template: a text with {} for the class name, or a JSON file of texts.
        precision: dtypes of the teacher's weights.

    Raises:
        ConfigError: the template is neither a text with {} nor a valid JSON file, or the name is not valid for its kind.
        BackboneError: the weights cannot be loaded.
    """
    check_template("TRAINER.CASPL.TEACHER.TEMPLATE", template)
    return _kind(name)(name, names, template, precision).requires_grad_(False).eval()


def teacher_files(name: str) -> tuple[Path, ...]:
    """Return the files that determine a teacher, without loading it.

    Raises:
        OSError, ValueError: they cannot be found.
    """
    return _kind(name).files(name)


def _kind(name: str) -> type[Teacher]:
    prefix = name.partition(":")[0]
    return kinds.get(prefix if ":" in name else "", kinds[""])

"""Teachers of phase 1. A module in this folder with a subclass of `Teacher` adds a kind of teacher."""

import importlib
import pkgutil
from collections.abc import Sequence

from ...engine.precision import Precision
from ..templates import check_template
from .base import KEY, Teacher, kinds
from .transform import TeacherTransform

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["KEY", "Teacher", "TeacherTransform", "load_teacher"]


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
    prefix = name.partition(":")[0]
    kind = kinds.get(prefix if ":" in name else "", kinds[""])
    return kind(name, names, template, precision).requires_grad_(False).eval()

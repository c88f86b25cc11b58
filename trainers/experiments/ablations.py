"""The ablations that `reproduce ablations` makes, described as data."""

from collections.abc import Sequence
from dataclasses import dataclass

from .protocols import ELEVEN, Scope
from .variations import Variation

PROTOCOL = "base2new"
PAPER = Scope(tuple(ELEVEN), hosts=("PromptSRC",))
MINIATURE = Scope(("shapes_forms",), seeds=(1, 2), hosts=("CoOp",))


@dataclass(frozen=True)
class Ablation:
    """The values of one or several keys that change together.

    Attributes:
        name: of its plot's file.
        keys: the keys; tables and plots are over the first one.
        values: the values of all keys, for the paper's models.
        miniature: likewise, for the embedded models; empty: the same values.
    """

    name: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    miniature: tuple[str, ...] = ()

    def variations(self, miniature: bool) -> list[Variation]:
        """Return a variation for each value."""
        values = (self.miniature or self.values) if miniature else self.values
        return [tuple((key, value) for key in self.keys) for value in values]


def _keys(*names: str) -> tuple[str, ...]:
    return tuple(f"TRAINER.CASPL.{name}" for name in names)


ABLATIONS: Sequence[Ablation] = (
    Ablation("tokens", _keys("N_CTX_TEXT", "N_CTX_VISION"), ("2", "4", "8", "16"), ("1", "2", "4")),
    Ablation("depth", _keys("DEPTH_TEXT", "DEPTH_VISION"), ("3", "6", "9", "12"), ("1", "2")),
    Ablation("temperature", _keys("TEMPERATURE"), ("0.5", "1", "2", "4")),
    Ablation("teacher", _keys("TEACHER.BACKBONE"), ("ViT-B/16", "ViT-L/14"), ("shapes-student", "shapes-teacher")),
    Ablation("share", _keys("SHARE"), ("0.1", "0.25", "0.5", "1")),
    Ablation("classes", _keys("CLASSES"), ("base", "all")),
    Ablation("order", _keys("TEXT_ORDER"), ("boosting_first", "host_first")),
    Ablation("joint", _keys("JOINT"), ("False", "True")),
)

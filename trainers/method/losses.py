"""Losses of phase 1: how far the student's logits are from the teacher's. An entry of `LOSSES` is a choice."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from ..engine.blocks import at_least_float32

Loss = Callable[[Tensor, Tensor, float], Tensor]  # student (B, C), teacher (B, C), temperature


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute KL(softmax(teacher / T) || softmax(student / T)) * T^2 / B (arXiv 2409.17805, equation 4).

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        temperature: T.

    Returns:
        The loss, in float32 or float64.
    """
    student, teacher = at_least_float32(student) / temperature, at_least_float32(teacher) / temperature
    divergence = F.kl_div(student.log_softmax(dim=1), teacher.softmax(dim=1), reduction="sum")
    return divergence * temperature**2 / len(student)


LOSSES: dict[str, Loss] = {"kl": kl_divergence}  # values of TRAINER.CASPL.LOSS

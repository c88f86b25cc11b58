"""`build_transform`: from the names in `cfg.INPUT.TRANSFORMS` to a torchvision transform.

The names select the steps; the order of the steps is fixed, whatever the order of the names.
"""

import logging
from collections.abc import Callable, Sequence

from torchvision.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    GaussianBlur,
    InterpolationMode,
    Normalize,
    RandomApply,
    RandomCrop,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)
from yacs.config import CfgNode

from dassl.utils import check_availability

logger = logging.getLogger(__name__)

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}
Step = Callable[[CfgNode], Callable]  # from `cfg.INPUT` to a transform


def _interpolation(inp: CfgNode) -> InterpolationMode:
    check_availability(inp.INTERPOLATION, INTERPOLATION_MODES)
    return INTERPOLATION_MODES[inp.INTERPOLATION]


# Steps of training, in order, on the PIL image.
_ON_IMAGE: dict[str, Step] = {
    "random_crop": lambda inp: RandomCrop(inp.SIZE, padding=inp.CROP_PADDING),
    "random_resized_crop": lambda inp: RandomResizedCrop(
        inp.SIZE, scale=inp.RRCROP_SCALE, interpolation=_interpolation(inp)
    ),
    "random_flip": lambda inp: RandomHorizontalFlip(),
    "colorjitter": lambda inp: ColorJitter(inp.COLORJITTER_B, inp.COLORJITTER_C, inp.COLORJITTER_S, inp.COLORJITTER_H),
    "randomgrayscale": lambda inp: RandomGrayscale(p=inp.RGS_P),
    "gaussian_blur": lambda inp: RandomApply([GaussianBlur(inp.GB_K)], p=inp.GB_P),
}
# center_crop is accepted and changes nothing: testing always crops, training never does.
AVAI_CHOICES = [*_ON_IMAGE, "normalize", "center_crop"]
_ONLY_IN_DASSL = (
    *("random_translation", "cutout", "gaussian_noise", "instance_norm", "imagenet_policy", "cifar10_policy"),
    *("svhn_policy", "randaugment", "randaugment_fixmatch", "randaugment2"),
)


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> Compose | None:
    """Build the transform from a PIL image to a tensor (3, H, W).

    None with INPUT.NO_TRANSFORM.

    Training resizes to INPUT.SIZE unless a random crop does, then applies the chosen steps. Testing resizes the
    smaller edge to the larger of INPUT.SIZE, crops the centre, and normalises if that is chosen.

    Args:
        cfg: the whole configuration.
        is_train: whether the transform is for training.
        choices: names of steps; None: `cfg.INPUT.TRANSFORMS`.

    Raises:
        ValueError: a name is unknown.
        NotImplementedError: a name exists only in the real Dassl.
    """
    inp = cfg.INPUT
    if inp.NO_TRANSFORM:
        logger.info("No transform is applied (INPUT.NO_TRANSFORM)")
        return None
    choices = inp.TRANSFORMS if choices is None else choices
    for choice in choices:
        if choice in _ONLY_IN_DASSL:
            raise NotImplementedError(
                f'INPUT.TRANSFORMS: "{choice}" needs the real Dassl; known here: {", ".join(AVAI_CHOICES)}'
            )
        check_availability(choice, AVAI_CHOICES)
    steps = _train_steps(inp, choices) if is_train else _test_steps(inp)
    steps.append(ToTensor())
    if "normalize" in choices:
        steps.append(Normalize(mean=inp.PIXEL_MEAN, std=inp.PIXEL_STD))
    logger.info("Transform for %s: %s", "training" if is_train else "testing", ", ".join(map(str, steps)))
    return Compose(steps)


def _train_steps(inp: CfgNode, choices: Sequence[str]) -> list[Callable]:
    cropped = "random_crop" in choices or "random_resized_crop" in choices
    resize = [] if cropped else [Resize(inp.SIZE, interpolation=_interpolation(inp))]
    return [*resize, *(make(inp) for name, make in _ON_IMAGE.items() if name in choices)]


def _test_steps(inp: CfgNode) -> list[Callable]:
    return [Resize(max(inp.SIZE), interpolation=_interpolation(inp)), CenterCrop(inp.SIZE)]

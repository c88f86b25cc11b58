"""`build_transform`: from the names in `cfg.INPUT.TRANSFORMS` to a torchvision transform.

The names say which steps are taken; the order of the steps is fixed, whatever the order of the names.
"""

import logging

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

from dassl.utils import check_availability

from .augment import Cutout, GaussianNoise, InstanceNormalization, Random2DTranslation

logger = logging.getLogger(__name__)

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


def interpolation_mode(inp):
    """torchvision's interpolation mode for `inp.INTERPOLATION` (`inp`: `cfg.INPUT`)."""
    check_availability(inp.INTERPOLATION, list(INTERPOLATION_MODES))
    return INTERPOLATION_MODES[inp.INTERPOLATION]


def normalization(inp):
    """The step "normalize" (`inp`: `cfg.INPUT`)."""
    return Normalize(mean=inp.PIXEL_MEAN, std=inp.PIXEL_STD)


# Steps of training in order: on the PIL image, then on the tensor.
_ON_IMAGE = {
    "random_translation": lambda inp: Random2DTranslation(inp.SIZE[0], inp.SIZE[1]),
    "random_crop": lambda inp: RandomCrop(inp.SIZE, padding=inp.CROP_PADDING),
    "random_resized_crop": lambda inp: RandomResizedCrop(
        inp.SIZE, scale=inp.RRCROP_SCALE, interpolation=interpolation_mode(inp)
    ),
    "random_flip": lambda inp: RandomHorizontalFlip(),
    "colorjitter": lambda inp: ColorJitter(inp.COLORJITTER_B, inp.COLORJITTER_C, inp.COLORJITTER_S, inp.COLORJITTER_H),
    "randomgrayscale": lambda inp: RandomGrayscale(p=inp.RGS_P),
    "gaussian_blur": lambda inp: RandomApply([GaussianBlur(inp.GB_K)], p=inp.GB_P),
}
_ON_TENSOR = {
    "cutout": lambda inp: Cutout(inp.CUTOUT_N, inp.CUTOUT_LEN),
    "normalize": normalization,
    "gaussian_noise": lambda inp: GaussianNoise(inp.GN_MEAN, inp.GN_STD),
    "instance_norm": lambda inp: InstanceNormalization(),
}
_IN_TESTS_TOO = ("normalize", "instance_norm")

# center_crop is accepted and changes nothing: tests always do it, training never does.
AVAI_CHOICES = [*_ON_IMAGE, *_ON_TENSOR, "center_crop"]
_LEFT_OUT = (
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
)


def build_transform(cfg, is_train=True, choices=None):
    """The transform from a PIL image to a tensor (3, H, W), or None with INPUT.NO_TRANSFORM.

    Training resizes to INPUT.SIZE unless a random crop does, then takes the chosen steps. Testing resizes the
    smaller edge to the larger of INPUT.SIZE, crops the centre, and takes only the normalisations.

    Args:
        choices: names instead of `cfg.INPUT.TRANSFORMS`.

    Raises:
        ValueError: a name is unknown.
        NotImplementedError: a name is Dassl's, but not here.
    """
    inp = cfg.INPUT
    if inp.NO_TRANSFORM:
        logger.info("No transform is applied (INPUT.NO_TRANSFORM)")
        return None
    choices = inp.TRANSFORMS if choices is None else choices
    for choice in choices:
        if choice in _LEFT_OUT:
            raise NotImplementedError(
                f'INPUT.TRANSFORMS: "{choice}" needs the real Dassl; known here: {", ".join(AVAI_CHOICES)}'
            )
        check_availability(choice, AVAI_CHOICES)
    steps = _train_steps(inp, choices) if is_train else _test_steps(inp, choices)
    logger.info("Transform for %s: %s", "training" if is_train else "testing", ", ".join(map(str, steps)))
    return Compose(steps)


def _train_steps(inp, choices):
    steps = []
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        steps.append(Resize(inp.SIZE, interpolation=interpolation_mode(inp)))
    steps += [make(inp) for name, make in _ON_IMAGE.items() if name in choices]
    return [*steps, ToTensor(), *_tensor_steps(inp, choices)]


def _test_steps(inp, choices):
    kept = [name for name in choices if name in _IN_TESTS_TOO]
    resize = Resize(max(inp.SIZE), interpolation=interpolation_mode(inp))
    return [resize, CenterCrop(inp.SIZE), ToTensor(), *_tensor_steps(inp, kept)]


def _tensor_steps(inp, choices):
    return [make(inp) for name, make in _ON_TENSOR.items() if name in choices]

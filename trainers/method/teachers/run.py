"""A finished run as the teacher: a host's prompts on its CLIP, cascaded or not."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...backbones import files_of
from ...config import ConfigError
from ...config.yaml_files import read_yaml
from ...engine import clip_sizes
from ...engine.precision import Precision, cast_clip
from .base import KEY, Teacher

logger = logging.getLogger(__name__)

PREFIX = "run"


class RunTeacher(Teacher, prefix=PREFIX):
    """A finished run of any host whose class features do not depend on the image.

    Its template is the run's own.

    Args:
        name: "run:<folder>" or "run:hf-hub:<user>/<name>".
        names: the class names; they may differ from those of the run.
        template: not used.
        precision: dtypes of its CLIP's weights.

    Raises:
        FileNotFoundError: the run is not finished.
        ConfigError: the run's class features depend on the image, its prompts belong to single classes, or its trainer is
            not one of this package.
    """

    def __init__(self, name: str, names: Sequence[str], template: str, precision: Precision):
        super().__init__()
        from ...deploy.classifier import load  # a program's part, above this package's methods
        from ...deploy.source import local_folder

        folder = local_folder(name.removeprefix(f"{PREFIX}:"))
        kept = read_yaml(folder / "config.yaml")
        try:
            with torch.random.fork_rng(devices=[]):  # initial values are replaced; the run's seed must not notice
                classifier = load(folder).with_classes(names)
            classifier.check_constant_classes()
        except ConfigError as error:
            raise ConfigError(f"{KEY}: {name!r} cannot be a teacher. {error}") from error
        self.model = classifier.model
        self.size = clip_sizes(self.model.clip).image
        if "normalize" in kept["INPUT"]["TRANSFORMS"]:
            self.statistics = tuple(kept["INPUT"]["PIXEL_MEAN"]), tuple(kept["INPUT"]["PIXEL_STD"])
        self.interpolation = "bilinear" if kept["INPUT"]["INTERPOLATION"] == "bilinear" else "bicubic"
        self.paths = self.files(name)
        cast_clip(self.model.clip, precision.weights)
        logger.info("Teacher: %s from %s", kept["TRAINER"]["NAME"], folder)

    @classmethod
    def files(cls, name: str) -> tuple[Path, ...]:
        """Return the files of the run's CLIP and of what it learned."""
        from ...deploy.source import local_folder

        folder = local_folder(name.removeprefix(f"{PREFIX}:"))
        backbone = read_yaml(folder / "config.yaml")["MODEL"]["BACKBONE"]["NAME"]
        learned = sorted(path for path in folder.rglob("*") if path.suffix == ".safetensors" or "model" in path.name)
        return (*files_of(backbone), *filter(lambda path: path.is_file(), learned))

    def image_features(self, image: Tensor) -> Tensor:
        return self.model.image_features(image)

    def _class_features(self) -> Tensor:
        return self.model.class_features()

    def scale(self) -> Tensor:
        return self.model.clip.logit_scale.exp()

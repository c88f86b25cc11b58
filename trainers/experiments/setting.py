"""What all runs of a protocol on a dataset share: folders, recipes, settings, and the identity of the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from dassl.data.datasets import build_dataset
from yacs.config import CfgNode

from .. import config
from ..method import prompt_file
from ..method.identity import data_fingerprint, planned_identity
from . import variations
from .places import dataset_files, trainer_file
from .protocols import PROTOCOLS, Protocol, is_miniature, targets_of
from .recipes import changes
from .setup import assemble, default_cfg
from .variations import Variation

BOOSTING_SEED = 1  # phase 1 is trained once and shared by all seeds and hosts (the paper's protocol)

# KEY VALUE pairs of a whole protocol reach phase 1 too, except for these, which are understood as phase 2's.
_PHASE_2_ONLY = (
    "OPTIM.",
    "TRAIN.",
    "DATALOADER.TRAIN_X.",
    "TRAINER.CO",
    "TRAINER.MA",
    "TRAINER.PR",
    "TRAINER.CASPL.CHECK",
)
_FEATURES = ("TEST.FEATURES", "TRAIN.FEATURES")
_TEACHERS = {"vit_b16": "vit_l14", "shapes": "shapes_teacher"}  # recipes of teachers


@dataclass(frozen=True)
class Data:
    """The identity of a dataset's images and classes.

    Attributes:
        root: the folder of the datasets.
        fingerprint: digest of class names, images and split.
        classes: the class names.
        images: number of training images.
    """

    root: str
    fingerprint: str
    classes: tuple[str, ...]
    images: int

    @property
    def record(self) -> dict[str, str]:
        """What is kept of it with a result."""
        return {"root": self.root, "fingerprint": self.fingerprint}


@dataclass
class Setting:
    """What all runs of a protocol on a dataset have in common.

    Attributes:
        dataset: name of a file in configs/datasets.
        data: folder of the datasets.
        output: folder of all runs.
        options: KEY VALUE pairs; phase 1 takes those that do not belong to phase 2.
        protocol: its name.
        targets: datasets to test on too, where the protocol does; empty: its default.
        boost_options: KEY VALUE pairs of phase 1 alone.
        adapt_options: KEY VALUE pairs of phase 2 alone.
        varied: the part of these options that distinguishes the setting from others in its output folder.
        teachers: whether PromptSRC's runs are teachers, on a larger CLIP.
    """

    dataset: str
    data: Path
    output: Path
    options: list[str] = field(default_factory=list)
    protocol: str = "base2new"
    targets: list[str] = field(default_factory=list)
    boost_options: list[str] = field(default_factory=list)
    adapt_options: list[str] = field(default_factory=list)
    varied: Variation = ()
    teachers: bool = False
    _data: dict[str, Data] = field(default_factory=dict, repr=False, compare=False)
    _planned: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        return PROTOCOLS[self.protocol]

    @property
    def recipe(self) -> str:
        """Name of the trainers' configuration files: "shapes" for the embedded datasets, else "vit_b16"."""
        return "shapes" if is_miniature(self.dataset) else "vit_b16"

    @property
    def boosting_dir(self) -> Path:
        """Folder of phase 1's run."""
        return self.output / variations.folder(self.varied_of("CasPL")) / self.rules.boosting / self.dataset

    @property
    def boosting_file(self) -> Path:
        """The file that phase 1 writes."""
        return self.boosting_dir / prompt_file.FILE_NAME

    @property
    def tested_datasets(self) -> list[str]:
        """The target datasets; none unless the protocol tests on others."""
        return [] if self.rules.target_options is None else self.targets or targets_of(self.dataset)

    def registered_name(self, dataset: str = "") -> str:
        """Return the registered name of a dataset, by default the setting's."""
        return yaml.safe_load(dataset_files()[dataset or self.dataset].read_text())["DATASET"]["NAME"]

    def folder(self, trainer: str, seed: int | None = None, shots: int | None = None) -> Path:
        """Return the folder of a run, or of the result of a trainer without phase 2."""
        varied = variations.folder(self.varied_of(trainer))
        folder = self.output / varied / self.protocol / self.dataset / trainer
        return folder if seed is None else folder / f"shots_{shots}" / f"seed_{seed}"

    def of(self, dataset: str, protocol: str, targets: Sequence[str] = ()) -> "Setting":
        """Return this setting for another dataset and protocol."""
        return replace(self, dataset=dataset, protocol=protocol, targets=list(targets))

    def with_variation(self, varied: Variation) -> "Setting":
        """Return this setting with other values of some keys, in separate folders where a run reads them."""
        added: dict[str, list[str]] = {"": [], "boost": [], "adapt": []}
        for name, value in varied:
            phase, key = variations.phase_of(name)
            added[phase] += [key, value]
        return replace(
            self,
            options=[*self.options, *added[""]],
            boost_options=[*self.boost_options, *added["boost"]],
            adapt_options=[*self.adapt_options, *added["adapt"]],
            varied=tuple(varied),
            _data={} if any("DATASET." in name for name, _ in varied) else self._data,
        )

    def __getstate__(self) -> dict:
        """Leave the data out of a pickle: a job in another process reads them when it starts."""
        return self.__dict__ | {"_data": {}}

    def varied_of(self, trainer: str) -> Variation:
        """Return the varied keys that a run depends on, phase 1's included.

        Trainers without any share one run.
        """
        if not self.varied:
            return ()
        phase_1 = set(self.options_for("CasPL")[::2])
        found = []
        for name, value in self.varied:
            phase, key = variations.phase_of(name)
            in_phase_1 = trainer.startswith("CasPL") and phase != "adapt" and key in phase_1
            if in_phase_1 or (trainer != "CasPL" and phase != "boost" and _reads(trainer, key)):
                found.append((name, value))
        return tuple(found)

    def options_for(self, trainer: str) -> list[str]:
        """Return the KEY VALUE pairs that a trainer takes: those that it reads, of its phase."""
        if trainer == "CasPL":
            pairs = [pair for pair in _pairs(self.options) if not pair[0].startswith(_PHASE_2_ONLY)]
            return _flat([pair for pair in pairs if _reads(trainer, pair[0])]) + self.boost_options
        pairs = _pairs(self.options) + _pairs(self.adapt_options)
        return _flat([pair for pair in pairs if _reads(trainer, pair[0])])

    def kept_features(self, trainer: str) -> list[str]:
        """Return KEY VALUE pairs that keep image features below the output folder.

        All runs of the protocols share them.
        """
        given = dict(_pairs(self.options_for(trainer)))
        keys = [key for key in _FEATURES if config.is_own(trainer) and config.reads(trainer, key)]
        return _flat([[key, given.get(key, str(self.output / "features"))] for key in keys])

    def unreached(self) -> list[str]:
        """Return the plain KEY VALUE pairs that phase 1 reads but that are understood as phase 2's."""
        taken = set(self.options_for("CasPL")[::2])
        pairs = [pair for pair in _pairs(self.options) if pair[0] not in taken and _reads("CasPL", pair[0])]
        return _flat([pair for pair in pairs if pair[0] != "TRAINER.CASPL.CHECKPOINT"])

    def check_options(self, trainers: Sequence[str]) -> None:
        """Check that each option exists and reaches a phase.

        Args:
            trainers: those that will run.

        Raises:
            ConfigError: an option does not exist, or none of these trainers reads it.
        """
        for options, readers in (
            (self.options, trainers),
            (self.boost_options, ["CasPL"]),
            (self.adapt_options, [trainer for trainer in trainers if trainer != "CasPL"]),
        ):
            config.merge_options(default_cfg(), list(options))
            for key in options[::2]:
                if not any(_reads(trainer, key) for trainer in readers):
                    raise config.ConfigError(f"{key}: set, but none of {', '.join(readers)} reads it. Leave it out")

    def configuration(
        self, trainer: str, seed: int, folder: Path, options: Sequence[str] = (), dataset: str = ""
    ) -> CfgNode:
        """Assemble a trainer's configuration.

        Args:
            trainer: its name.
            seed: seed of everything that is drawn.
            folder: folder of the run.
            options: KEY VALUE pairs.
            dataset: name of another dataset than the setting's.
        """
        large = self.teachers and trainer == "PromptSRC"
        files = [
            dataset_files()[dataset or self.dataset],
            trainer_file(trainer, _TEACHERS[self.recipe] if large else self.recipe),
        ]
        named = ["DATASET.ROOT", str(self.data), "OUTPUT_DIR", str(folder), "SEED", seed, "TRAINER.NAME", trainer]
        named += self.kept_features(trainer)
        recipe = [] if large else changes(self.protocol, self.dataset, trainer)
        return assemble(files, [*named, *recipe, *options])

    def boosting_identity(self) -> str:
        """Return the identity of the prompt that phase 1 would learn.

        It is empty if it cannot be known before.
        """
        if self._planned is None:
            cfg = self.configuration("CasPL", BOOSTING_SEED, self.boosting_dir, self.options_for("CasPL"))
            self._planned = planned_identity(cfg, self.data_of().fingerprint)
        return self._planned

    def data_of(self, dataset: str = "") -> Data:
        """Read the list of images of a dataset, rendering the embedded ones, and return its identity.

        Args:
            dataset: name of another dataset than the setting's.

        Raises:
            OSError, ValueError: the dataset is missing or damaged.
        """
        name = dataset or self.dataset
        if name not in self._data:
            options = self.options_for("CasPL")
            built = build_dataset(self.configuration("CasPL", BOOSTING_SEED, self.boosting_dir, options, dataset))
            digest = data_fingerprint(built, str(self.data))
            self._data[name] = Data(str(self.data), digest, tuple(built.classnames), len(built.train_x))
        return self._data[name]


def _pairs(options: Sequence[str]) -> list[list[str]]:
    """Return [KEY, VALUE] lists; a last key without a value stays alone, which merging rejects."""
    return [list(options[i : i + 2]) for i in range(0, len(options), 2)]


def _flat(pairs: list[list[str]]) -> list[str]:
    return [item for pair in pairs for item in pair]


def _reads(trainer: str, key: str) -> bool:
    """Return whether a trainer reads a key."""
    return not config.is_own(trainer) or config.reads(trainer, key)

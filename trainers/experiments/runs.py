"""What the protocols are made of: phase 1, phase 2 and evaluations."""

import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yacs.config import CfgNode

from .. import config
from ..method import prompt_file
from ..storage.atomic import replacing, sha256
from ..storage.locks import locked
from ..training import provenance
from ..training.evaluation import Metrics
from ..training.run import Run
from ..version import __version__
from .places import dataset_files, trainer_file
from .protocols import PROTOCOLS, Protocol, is_miniature, targets_of
from .recipes import changes
from .setup import assemble, default_cfg, nodes_read

logger = logging.getLogger(__name__)

BOOSTING_SEED = 1  # phase 1 is trained once and shared by all seeds and hosts (the paper's protocol)

# KEY VALUE pairs that a whole protocol was given reach phase 1 too, but for these, which mean phase 2.
_PHASE_2_ONLY = (
    "OPTIM.",
    "TRAIN.",
    "DATALOADER.TRAIN_X.",
    "TRAINER.CO",
    "TRAINER.MA",
    "TRAINER.PR",
    "TRAINER.CASPL.CHECK",
)


@dataclass
class Setting:
    """What all runs of a protocol have in common.

    Attributes:
        dataset: name of a file in configs/datasets.
        data, output: folders of the datasets and of all runs.
        recipe: name of the trainers' configuration files: "shapes" for the embedded datasets, else "vit_b16".
        options: KEY VALUE pairs.
        protocol: its name.
        targets: datasets to test on too, where the protocol does; empty: its own.
    """

    dataset: str
    data: Path
    output: Path
    options: list[str] = field(default_factory=list)
    protocol: str = "base2new"
    targets: list[str] = field(default_factory=list)

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        return PROTOCOLS[self.protocol]

    @property
    def recipe(self) -> str:
        """Name of the trainers' configuration files."""
        return "shapes" if is_miniature(self.dataset) else "vit_b16"

    @property
    def boosting_dir(self) -> Path:
        """Folder of phase 1's run."""
        return self.output / self.rules.boosting / self.dataset

    @property
    def boosting_file(self) -> Path:
        """What phase 1 writes."""
        return self.boosting_dir / prompt_file.FILE_NAME

    def folder(self, trainer: str, seed: int | None = None, shots: int | None = None) -> Path:
        """Folder of a run, or of the result of a trainer that is not trained in phase 2."""
        folder = self.output / self.protocol / self.dataset / trainer
        return folder if seed is None else folder / f"shots_{shots}" / f"seed_{seed}"

    def options_for(self, trainer: str) -> list[str]:
        """The options without those that set what another trainer reads."""
        nodes = nodes_read(trainer)
        return [item for pair in _pairs(self.options) if _reads(nodes, pair[0]) for item in pair]

    def check_options(self, trainers: list[str]) -> None:
        """Raise `ConfigError` for an option that does not exist, or that none of these trainers reads."""
        config.merge_options(default_cfg(), self.options)
        read = {key for trainer in trainers for key in self.options_for(trainer)[::2]}
        for key in self.options[::2]:
            if key not in read:
                raise config.ConfigError(f"{key} is set, but none of {', '.join(trainers)} reads it: leave it out")

    def configuration(
        self, trainer: str, seed: int, folder: Path, options: list[str] | None = None, dataset: str = ""
    ) -> CfgNode:
        """Assemble a trainer's configuration.

        Args:
            folder: of the run.
            options: KEY VALUE pairs.
            dataset: name of another dataset than the setting's.
        """
        files = [dataset_files()[dataset or self.dataset], trainer_file(trainer, self.recipe)]
        return assemble(files, [*self._named(trainer, seed, folder), *self._recipe(trainer), *(options or [])])

    def _named(self, trainer: str, seed: int, folder: Path) -> list:
        return ["DATASET.ROOT", str(self.data), "OUTPUT_DIR", str(folder), "SEED", seed, "TRAINER.NAME", trainer]

    def _recipe(self, trainer: str) -> list[str]:
        """What the protocol changes in the trainer's recipe."""
        return [] if self.recipe == "shapes" else changes(self.protocol, self.dataset, trainer)


def _pairs(options: list[str]) -> list[list[str]]:
    """[KEY, VALUE] lists; a last key without a value stays alone (merging it says so)."""
    return [options[i : i + 2] for i in range(0, len(options), 2)]


def _reads(nodes: set[str] | None, key: str) -> bool:
    parts = key.split(".")
    return nodes is None or parts[0] != "TRAINER" or len(parts) < 3 or parts[1] in nodes


def boost(setting: Setting, options: list[str] | None = None) -> Path:
    """Phase 1, unless its boosting prompt is there already. If another process is at it, its end is awaited.

    Args:
        options: KEY VALUE pairs for phase 1; None: those of the setting that concern it.

    Returns:
        the boosting-prompt file.

    Raises:
        ConfigError: the boosting prompt that is there was trained with other values of these options.
    """
    folder, path = setting.boosting_dir, setting.boosting_file
    if options is None:
        pairs = _pairs(setting.options_for("CasPL"))
        options = [item for pair in pairs if not pair[0].startswith(_PHASE_2_ONLY) for item in pair]
    if not path.is_file():
        with locked(folder):
            if not path.is_file():
                Run(setting.configuration("CasPL", BOOSTING_SEED, folder, options)).train()
                return path
    prompt_file.read_info(path)
    logger.info("Phase 1 is done already: %s", path)
    if (folder / "config.yaml").is_file():
        _compare_boosting(setting.configuration("CasPL", BOOSTING_SEED, folder), folder / "config.yaml", options)
    return path


def _compare_boosting(recipe, kept_file: Path, options: list[str]) -> None:
    kept, asked = recipe.clone(), recipe.clone()
    for cfg in (kept, asked):
        cfg.defrost()
        config.merge_file(cfg, kept_file)
    config.merge_options(asked, options)
    if changed := config.differences(asked, kept):
        raise config.ConfigError(
            f"the boosting prompt in {kept_file.parent} was trained with other settings ({'; '.join(changed)}): remove the "
            "folder to train it again, or give another --output"
        )
    if changed := config.differences(kept, recipe):
        logger.info("It was trained with settings of its own: %s", "; ".join(changed))


def host_run(setting: Setting, trainer: str, seed: int, shots: int) -> dict:
    """Train and measure as the protocol says; a run that is finished is only read.

    Args:
        trainer: the host's own, or `CasPL_<host>`, for which phase 1 must be done.

    Returns:
        the result, as it stands in `result.json`.
    """
    folder, targets = setting.folder(trainer, seed, shots), setting.targets or targets_of(setting.dataset)
    options = ["DATASET.NUM_SHOTS", str(shots), *setting.rules.trained_on]
    boosting = setting.boosting_file if trainer.startswith("CasPL_") else None
    if boosting is not None:
        options += ["TRAINER.CASPL.CHECKPOINT", str(boosting)]
    with locked(folder):
        result = finished(setting, trainer, seed, folder, options, boosting)
        if result is not None and not set(targets) - set(result.get("targets", targets)):
            logger.info("%s is done already: %s", trainer, folder)
            return result
        start = time.monotonic()
        first = adapt(setting, trainer, seed, folder, options)
        figures = setting.rules.measure(first, _tester(setting, trainer, folder), targets)
        head = {"trainer": trainer, "host": trainer.removeprefix("CasPL_"), "seed": seed, "shots": shots}
        head |= {"seconds": time.monotonic() - start if result is None else result["seconds"]}
        kept = yaml.safe_load((folder / "config.yaml").read_text())
        return save_result(setting, folder, head | figures, boosting, kept, provenance.kept(folder))


def untrained(setting: Setting, trainer: str) -> dict:
    """Measure what has no phase 2: stock CLIP ("ZeroshotCLIP"), or CLIP with the boosting prompt alone ("CasPL").

    Returns:
        the result; one that is there is read, if it was made with the same settings and boosting prompt.
    """
    folder, targets = setting.folder(trainer), setting.targets or targets_of(setting.dataset)
    boosting = setting.boosting_file if trainer == "CasPL" else None
    runs = folder if boosting is None else setting.boosting_dir
    with locked(folder):
        asked = _evaluation(setting, trainer, runs, setting.rules.trained_on)
        configuration = yaml.safe_load(asked.dump())
        result = _read_result(folder / "result.json", setting.rules) if (folder / "result.json").is_file() else None
        if result is not None and _still_true(result, configuration, boosting, targets):
            logger.info("%s is done already: %s", trainer, folder)
            return result
        start = time.monotonic()
        figures = setting.rules.measure(Run(asked).evaluate(runs), _tester(setting, trainer, runs), targets)
        head = {"trainer": trainer, "host": None, "seed": None, "shots": None, "seconds": time.monotonic() - start}
        seen = [] if boosting is None else [prompt_file.boosting_item(prompt_file.read_info(boosting))]
        return save_result(setting, folder, head | figures, boosting, configuration, seen)


def _still_true(result: dict, configuration: dict, boosting: Path | None, targets: list[str]) -> bool:
    same_prompt = boosting is None or result["boosting"]["sha256"] == sha256(boosting)
    complete = not set(targets) - set(result.get("targets", targets))
    return same_prompt and complete and result["configuration"] == configuration


def finished(
    setting: Setting, trainer: str, seed: int, folder: Path, options: list[str], boosting: Path | None
) -> dict | None:
    """The result of a run that is finished already, None if it is not.

    Raises:
        ConfigError: it is finished, but with other settings, or with another boosting prompt.
    """
    if not (folder / "result.json").is_file():
        return None
    result = _read_result(folder / "result.json", setting.rules)
    asked = setting.configuration(trainer, seed, folder, [*options, *setting.options_for(trainer)])
    config.check_kept(asked, folder / "config.yaml")
    if boosting is not None and result["boosting"]["sha256"] != sha256(boosting):
        raise config.ConfigError(
            f"the run in {folder} was made with another boosting prompt than {boosting}: remove its folder to make it again"
        )
    return result


def _read_result(path: Path, rules: Protocol) -> dict:
    try:
        result = json.loads(path.read_text())
        (
            result["boosting"],
            result["configuration"],
            result["seconds"],
            [float(f(result)) for f in rules.columns.values()],
        )
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise config.ConfigError(
            f"{path} is no result ({error!r}): remove it, and the run is evaluated again"
        ) from error
    return result


def adapt(setting: Setting, trainer: str, seed: int, folder: Path, options: list[str]) -> Metrics:
    """Train phase 2, or a host alone; return the metrics on the test images of the classes trained on."""
    metrics = Run(setting.configuration(trainer, seed, folder, [*options, *setting.options_for(trainer)])).train()
    if metrics is None:
        raise config.ConfigError("TEST.NO_TEST is True, expected False: a protocol needs the test's figures")
    return metrics


def _tester(setting: Setting, trainer: str, folder: Path) -> Callable[..., Metrics]:
    def test(options: list[str], dataset: str = "") -> Metrics:
        return Run(_evaluation(setting, trainer, folder, options, dataset)).evaluate(folder)

    return test


def _evaluation(setting: Setting, trainer: str, folder: Path, options: list[str], dataset: str = "") -> CfgNode:
    """Return the configuration that tests the run in `folder`, which is the run's own, on a dataset's test images."""
    if trainer == "CasPL" and "DATASET.SUBSAMPLE_CLASSES" not in options:  # all, whatever phase 1 was trained on
        options = [*options, "TRAINER.CASPL.CLASSES", "all"]
    if (folder / "config.yaml").is_file():
        other = [dataset_files()[dataset]] if dataset else []
        return assemble(other, ["DATASET.ROOT", str(setting.data), *options], evaluated=folder)
    # Nothing was trained: zero-shot CLIP.
    options = [*setting.options_for(trainer), *options]
    return setting.configuration(trainer, BOOSTING_SEED, folder, options, dataset)


def save_result(
    setting: Setting, folder: Path, figures: dict, boosting: Path | None, configuration: dict, seen: list[dict]
) -> dict:
    """Write `result.json`: the figures, and all that is needed to know where they came from.

    Args:
        figures: of the protocol, and which trainer, host, seed and shots they are of.
        configuration: of the run; seen: its ledger.
    """
    result = {"protocol": setting.protocol, "dataset": setting.dataset} | figures
    result |= {
        "boosting": None if boosting is None else {"file": boosting.name, "sha256": sha256(boosting)},
        "configuration": configuration,
        "seeds": {"boosting": BOOSTING_SEED if boosting else None, "run": figures["seed"]},
        "versions": versions(),
        "ledger": seen,
    }
    with replacing(folder / "result.json") as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n")
    return result


def versions() -> dict[str, str]:
    """The versions of what was computed with."""
    found = {"caspl": __version__, "python": platform.python_version()}
    for name in ("torch", "torchvision", "openai-clip", "yacs", "safetensors", "numpy", "Pillow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found

"""What the protocols are made of: phase 1, phase 2 and evaluations, each a call of the project's `train.py`."""

import argparse
import importlib.metadata
import json
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import train  # noqa: E402
from trainers import checkpoint, config  # noqa: E402
from trainers.files import locked, replacing, sha256  # noqa: E402

HOSTS = {"coop": "CoOp", "cocoop": "CoCoOp", "maple": "MaPLe", "promptsrc": "PromptSRC"}
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
        recipe: name of the trainers' configuration files: "shapes" for the embedded default, else "vit_b16".
        options: KEY VALUE pairs.
    """

    dataset: str
    data: Path
    output: Path
    options: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> str:
        """Name of the trainers' configuration files."""
        return "shapes" if self.dataset == "shapes" else "vit_b16"

    @property
    def boosting_dir(self) -> Path:
        """Folder of phase 1's run."""
        return self.output / "boosting" / self.dataset

    def options_for(self, trainer: str) -> list[str]:
        """The options without those that set what another trainer reads."""
        nodes = train.nodes_read(trainer)
        return [item for pair in _pairs(self.options) if _reads(nodes, pair[0]) for item in pair]

    def check_options(self, trainers: list[str]) -> None:
        """Raise `ConfigError` for an option that does not exist, or that none of these trainers reads."""
        config.merge_options(train.default_cfg(), self.options)
        read = {key for trainer in trainers for key in self.options_for(trainer)[::2]}
        for key in self.options[::2]:
            if key not in read:
                raise config.ConfigError(f"{key} is set, but none of {', '.join(trainers)} reads it: leave it out")

    def arguments(self, trainer: str, seed: int, folder: Path) -> list[str]:
        """The command line of `train.py` for a trainer, up to its KEY VALUE pairs."""
        return [
            *("--root", str(self.data), "--seed", str(seed), "--trainer", trainer, "--output-dir", str(folder)),
            *("--dataset-config-file", str(ROOT / "configs" / "datasets" / f"{self.dataset}.yaml")),
            *("--config-file", str(ROOT / "configs" / "trainers" / trainer / f"{self.recipe}.yaml")),
        ]


def _pairs(options: list[str]) -> list[list[str]]:
    """[KEY, VALUE] lists; a last key without a value stays alone (merging it says so)."""
    return [options[i : i + 2] for i in range(0, len(options), 2)]


def _reads(nodes: set[str] | None, key: str) -> bool:
    parts = key.split(".")
    return nodes is None or parts[0] != "TRAINER" or len(parts) < 3 or parts[1] in nodes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all protocols share."""
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder of the datasets (default: data/)")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="folder of the runs (default: output/)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="any key of the configuration")


def dataset_name(text: str) -> str:
    """A dataset's name, for argparse."""
    known = sorted(path.stem for path in (ROOT / "configs" / "datasets").glob("*.yaml"))
    if text not in known:
        raise argparse.ArgumentTypeError(f"unknown dataset {text!r}: {config.nearest(text, known)}")
    return text


def run_seed(text: str) -> int:
    """A run's seed, for argparse."""
    seed = train.seed_number(text)
    if seed < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0: a run's seed is 0, 1, 2, ...")
    return seed


def host_name(text: str) -> str:
    """A host's trainer, for argparse; case does not matter."""
    if text.lower() not in HOSTS:
        raise argparse.ArgumentTypeError(f"unknown host {text!r}: {config.nearest(text.lower(), sorted(HOSTS))}")
    return HOSTS[text.lower()]


def boost(setting: Setting, options: list[str] | None = None) -> Path:
    """Phase 1, unless its boosting prompt is there already. If another process is at it, its end is awaited.

    Args:
        options: KEY VALUE pairs for phase 1; None: those of the setting that concern it.

    Returns:
        the boosting-prompt file.

    Raises:
        ConfigError: the boosting prompt that is there was trained with other values of these options.
    """
    folder = setting.boosting_dir
    path = folder / checkpoint.FILE_NAME
    if options is None:
        pairs = _pairs(setting.options_for("CasPL"))
        options = [item for pair in pairs if not pair[0].startswith(_PHASE_2_ONLY) for item in pair]
    arguments = setting.arguments("CasPL", BOOSTING_SEED, folder)
    if not path.is_file():
        with locked(folder):
            if not path.is_file():
                train.run([*arguments, *options])
                return path
    checkpoint.read_info(path)
    print(f"Phase 1 is done already: {path}")
    if (folder / "config.yaml").is_file():
        _compare_boosting(train.setup_cfg(train.parse(arguments)), folder / "config.yaml", options)
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
        print(f"It was trained with settings of its own: {'; '.join(changed)}")


def finished(
    setting: Setting, trainer: str, seed: int, folder: Path, options: list[str], boosting: Path | None
) -> dict | None:
    """The result of a run that is finished already, None if it is not.

    Raises:
        ConfigError: it is finished, but with other settings, or with another boosting prompt.
    """
    if not (folder / "result.json").is_file():
        return None
    result = _read_result(folder / "result.json")
    arguments = [*setting.arguments(trainer, seed, folder), *options, *setting.options_for(trainer)]
    config.check_kept(train.setup_cfg(train.parse(arguments)), folder / "config.yaml")
    if boosting is not None and result["boosting"]["sha256"] != sha256(boosting):
        raise config.ConfigError(
            f"the run in {folder} was made with another boosting prompt than {boosting}: remove its folder to make it again"
        )
    print(f"{trainer} is done already: {folder}")
    return result


def _read_result(path: Path) -> dict:
    try:
        result = json.loads(path.read_text())
        result["boosting"], result["base"], result["new"], result["hm"], result["seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise config.ConfigError(
            f"{path} is no result ({error!r}): remove it, and the run is evaluated again"
        ) from error
    return result


def adapt(setting: Setting, trainer: str, seed: int, folder: Path, options: list[str]) -> float:
    """Phase 2, or a host alone: train, and return the accuracy on the test images of the classes trained on."""
    return train.run([*setting.arguments(trainer, seed, folder), *options, *setting.options_for(trainer)])


def evaluate(setting: Setting, trainer: str, folder: Path, options: list[str]) -> float:
    """The accuracy of the run in `folder` on the test images of other classes, with the run's own configuration."""
    flags = ["--eval-only", "--model-dir", str(folder)]
    if (folder / "config.yaml").is_file():
        return train.run([*flags, "--root", str(setting.data), *options])
    # Nothing was trained: zero-shot CLIP.
    own = setting.options_for(trainer)
    return train.run([*flags, *setting.arguments(trainer, BOOSTING_SEED, folder), *own, *options])


def harmonic_mean(base: float, new: float) -> float:
    """HM of two accuracies in per cent."""
    return 2 * base * new / (base + new) if base + new else 0.0


def save_result(folder: Path, figures: dict, boosting: Path | None) -> None:
    """Write `result.json`: the figures, and all that is needed to know where they came from."""
    result = figures | {
        "boosting": None if boosting is None else {"file": boosting.name, "sha256": sha256(boosting)},
        "configuration": yaml.safe_load((folder / "config.yaml").read_text()),
        "seeds": {"boosting": BOOSTING_SEED if boosting else None, "run": figures["seed"]},
        "versions": versions(),
    }
    with replacing(folder / "result.json") as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n")


def versions() -> dict[str, str]:
    """The versions of what was computed with."""
    found = {"caspl": checkpoint.VERSION, "python": platform.python_version()}
    for name in ("torch", "torchvision", "openai-clip", "yacs", "safetensors", "numpy", "Pillow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def as_program(main) -> None:
    """Run a command-line program's `main()`; a mistake in what was asked for is one line on stderr and exit code 2."""
    sys.exit(train.guarded(main))

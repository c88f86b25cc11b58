"""Arguments that several programs share, and KEY VALUE pairs anywhere on a command line."""

import argparse
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .. import activate
from . import interrupt

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*")  # of the configuration
_TOP_LEVEL = ("OUTPUT_DIR", "RESUME", "SEED", "USE_CUDA", "VERBOSE", "VERSION")


class Parser(argparse.ArgumentParser):
    """A parser that knows which options take one value, which may look like a KEY.

    Attributes:
        single: the names of these options.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self.single: set[str] = set()
        super().__init__(*args, **kwargs)

    def add_argument(self, *names: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*names, **kwargs)
        if action.nargs is None:
            self.single.update(action.option_strings)
        return action


def parser(command: str, description: str | None, keys: bool = True, phases: bool = False) -> Parser:
    """Return the parser of a command.

    Args:
        command: its name.
        description: text of its help.
        keys: whether it takes KEY VALUE pairs.
        phases: whether they can be addressed to one phase.
    """
    shape = argparse.RawDescriptionHelpFormatter
    epilog = "KEY VALUE: any key of the configuration with its value, anywhere; `caspl train --help` lists them"
    if phases:
        epilog += "\n--boost KEY VALUE ...: for phase 1 alone; --adapt KEY VALUE ...: for phase 2 alone"
    return Parser(
        prog=f"caspl {command}", description=description, formatter_class=shape, epilog=epilog if keys else None
    )


def parse(
    parser: argparse.ArgumentParser, argv: list[str] | None, keys: bool = True, phases: bool = False
) -> argparse.Namespace:
    """Parse a command line.

    Then make Dassl importable and register the trainers, which `--help` does not wait for.

    Args:
        parser: the command's parser.
        argv: the command line; None: this process's.
        keys: whether KEY VALUE pairs may be anywhere on it; they are in `opts` of the result.
        phases: whether pairs may be addressed to one phase; they are in `boost` and `adapt` of the result.
    """
    words = sys.argv[1:] if argv is None else argv
    pairs: dict[str, list[str]] = {"": [], "--boost": [], "--adapt": []}
    if keys:
        words, pairs = split_options(words, getattr(parser, "single", ()))
    args = parser.parse_args(words)
    args.opts, args.boost, args.adapt = pairs.values()
    if not phases and (args.boost or args.adapt):
        parser.error("--boost and --adapt: this command has a single phase; expected KEY VALUE pairs without them")
    with interrupt.ending_at_once():
        activate()
    return args


def split_options(argv: list[str], single: Collection[str] = ()) -> tuple[list[str], dict[str, list[str]]]:
    """Split a command line into the program's arguments and KEY VALUE pairs.

    A word in capitals with a dot in it, or one of the configuration's top-level keys, is a KEY; the next one is its value.
    Pairs that directly follow `--boost` or `--adapt` are of this phase alone.

    Args:
        argv: the command line.
        single: options that take one value; it is not a KEY.

    Returns:
        The arguments, and {"": plain pairs, "--boost": pairs of phase 1, "--adapt": pairs of phase 2}.
    """
    words: list[str] = []
    pairs: dict[str, list[str]] = {"": [], "--boost": [], "--adapt": []}
    waiting, phase = list(argv), ""
    while waiting:
        word = waiting.pop(0)
        if word in pairs and word and waiting and is_key(waiting[0]):
            phase = word
        elif is_key(word):
            pairs[phase] += [word, *waiting[:1]]
            waiting = waiting[1:]
        else:
            words += [word, *(waiting[:1] if word in single else ())]
            waiting = waiting[word in single :]
            phase = ""
    return words, pairs


def is_key(word: str) -> bool:
    """Return whether a word is a key of the configuration by its form."""
    return bool(KEY.fullmatch(word)) and ("." in word or word in _TOP_LEVEL)


def seed_number(text: str) -> int:
    """Convert a seed, for argparse."""
    if not text.lstrip("-").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def run_seed(text: str) -> int:
    """Convert a protocol's seed, for argparse."""
    seed = seed_number(text)
    if seed < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0: a run's seed is 0, 1, 2, ...")
    return seed


def shot_number(text: str) -> int:
    """Convert a number of images a class, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images a class: 1, 2, 4, ...")
    return int(text)


def dataset_name(text: str) -> str:
    """Check a dataset's name, for argparse."""
    from ..experiments.places import dataset_files

    return _known("dataset", text, list(dataset_files()))


def host_name(text: str) -> str:
    """Convert a host's command-line name to its trainer, for argparse.

    Case does not matter.
    """
    from ..experiments.places import host_names

    hosts = host_names()
    return hosts[_known("host", text.lower(), list(hosts))]


def _known(what: str, text: str, known: list[str]) -> str:
    from ..names import nearest

    if text not in known:
        raise argparse.ArgumentTypeError(f"unknown {what} {text!r}: {nearest(text, known)}")
    return text


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the folders that all protocols have."""
    from ..experiments.places import ROOT

    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder of the datasets (default: data/)")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="folder of the runs (default: output/)")

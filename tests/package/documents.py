"""The commands in README, CONTRIBUTING and docs/, for tests.

A fenced block of the language bash contains commands, and one of the language python a program. A block without a title
is executed as it is; a title states what it needs that a test does not have.
"""

import importlib
import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

from trainers.__main__ import COMMANDS
from trainers.cli import arguments

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r'^( *)```(\w*)(?: title="([^"\n]*)")?\n(.*?)^\1```$', re.M | re.S)
_INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )?(?:caspl|bash|python|pip) [^`]+)`")
_STARTS = re.compile(r"^\s*(?:\$ *)?(?:caspl|pip|bash|python3?|torchrun|git|mkdocs|conda|pre-commit) \S.*", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: such as bash; "" without one.
        title: "" without one.
        text: its content, without the indentation of a list.
    """

    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: name of the page.
        title: what it needs; "" if it is executed.
        words: the command line.
    """

    page: str
    title: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


class Parsed(BaseException):
    """A parsed command line, raised in place of running the command."""

    def __init__(self, parser, namespace):
        super().__init__()
        self.parser, self.namespace = parser, namespace


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [
        Block(language, title, textwrap.dedent(text)) for _, language, title, text in _FENCE.findall(page.read_text())
    ]


def example(name: str, title: str) -> str:
    """Return the text of the block with a title on a page of docs/."""
    (text,) = [block.text for block in blocks(ROOT / "docs" / name) if block.title == title]
    return text


def commands(page: Path) -> list[Command]:
    """Return the commands of a page's blocks, in order."""
    return [command for block in blocks(page) if block.language == "bash" for command in _commands(page, block)]


def steps(page: Path) -> list[Command]:
    """Return what a page executes, in order: commands, and programs as `python -c`."""
    found = []
    for block in blocks(page):
        if block.language == "python" and not block.title:
            found.append(Command(page.name, "", ("python", "-c", block.text)))
        elif block.language == "bash" and not block.title:
            found += _commands(page, block)
    return found


def _commands(page: Path, block: Block) -> list[Command]:
    lines = block.text.replace("\\\n", " ").splitlines()
    split = [tuple(shlex.split(line, comments=True)) for line in lines]
    return [Command(page.name, block.title, words) for words in split if words]


def inline(page: Path) -> list[str]:
    """Return the commands in a page's running text."""
    return _INLINE.findall(_FENCE.sub("", page.read_text()))


def uncollected(page: Path) -> list[str]:
    """Return lines that look like commands, and are neither running text nor in a block of commands."""
    others = [block.text for block in blocks(page) if block.language not in ("bash", "python")]
    return _STARTS.findall("\n".join([_FENCE.sub("", page.read_text()), *others]))


def parse(words) -> Parsed:
    """Parse the words after `caspl` with the command's own parser.

    Raises:
        SystemExit: an argument is unknown or wrong.
        KeyError: the command is unknown.
    """
    return _stopped(words, arguments.parse)


def parser_of(command: str):
    """Return the parser of a command."""
    return _stopped([command], lambda *_, **__: None).parser


def _stopped(words, read) -> Parsed:
    def stop(parser, argv, *args, **kwargs):
        raise Parsed(parser, read(parser, argv, *args, **kwargs))

    module, first, _ = COMMANDS[words[0]]
    program = importlib.import_module(f"trainers.cli.{module}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "parse", stop)
        try:
            program.main(*first, list(words[1:]))
        except Parsed as parsed:
            return parsed
    raise AssertionError(f"caspl {words[0]} does not parse its arguments with arguments.parse")


def options(parser) -> set[str]:
    """Return the options of a parser and its subcommands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found |= {option for each in action.choices.values() for option in options(each)}
    return found


def takes(command: str, option: str) -> bool:
    """Return whether a command has an option."""
    return option in options(parser_of(command))

"""`caspl <command>`, also `python -m caspl` (`python -m trainers` in a checkout)."""

import importlib
import sys

from .cli import interrupt
from .experiments.protocols import PROTOCOLS
from .version import __version__

# Command: (module in cli/, arguments ahead of argv, what it does).
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "train": ("train", (), "train or evaluate one trainer, with the family's flags"),
    "boost": ("boost", (), "phase 1 alone: train a dataset's boosting prompt"),
    **{rules.command: ("protocols", (name,), rules.summary) for name, rules in PROTOCOLS.items()},
    "reproduce": ("protocols", ("reproduce",), "every run of the paper's tables"),
    "predict": ("predict", (), "classify images with a finished run"),
    "embed": ("embed", (), "image features of a finished run"),
    "classifier": ("classifier", (), "class vectors of a finished run"),
    "export": ("export", (), "export a finished run to ONNX or torch.export"),
    "push": ("push", (), "share a finished run on the Hugging Face hub"),
    "report": ("report", (), "one HTML page about a finished run"),
    "demo": ("demo", (), "try a finished run in the browser"),
    "cost": ("cost", (), "steps, operations, memory, disk and hours of a protocol, without data"),
    "results": ("results", (), "tables and plots of finished runs"),
    "data": ("data", (), "check or fetch datasets"),
    "verify": ("verify", (), "check real data and weights against published figures"),
    "convert": ("convert", (), "import, export or inspect boosting-prompt files"),
}


def usage() -> str:
    """Return the help text."""
    lines = [f"  {name:<15} {text}" for name, (_, _, text) in COMMANDS.items()]
    head = ["usage: caspl <command> [arguments]     caspl <command> --help", "       caspl --version", "", "Commands:"]
    return "\n".join([*head, *lines, ""])


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    with interrupt.ending_at_once():
        return _main(argv)


def _main(argv: list[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(f"caspl {__version__}\n")
        return 0
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        from .names import nearest

        sys.stderr.write(f"error: unknown command {words[0]!r}: {nearest(name, list(COMMANDS))}\n")
        return 2
    module, first, _ = COMMANDS[name]
    return importlib.import_module(f".cli.{module}", __package__).main(*first, words[1:])


if __name__ == "__main__":
    sys.exit(main())

"""What the tests of downloads share."""

from datasets_helpers import kind_of
from test_datasets import FAMILY

from trainers.cli import data as program

KINDS = {name: kind_of(name) for name in FAMILY}
DOWNLOADS = {name: kind.facts.download for name, kind in KINDS.items() if kind.facts.download}


def run(*arguments):
    """Run the program; return its exit code."""
    return program.main([str(argument) for argument in arguments])


def files(folder):
    """Return the relative paths of all files below a folder, without hidden ones at its top."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if not path.startswith(".")}


def offline(*args):
    """Fail as a client without a network."""
    raise OSError("Hugging Face: offline")

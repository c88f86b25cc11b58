"""Runs and prompts in repositories of the Hugging Face hub, through `huggingface_hub`: no CLIP weights, no pickles."""

import json
import logging
from pathlib import Path

from ..version import __version__
from .atomic import sha256

logger = logging.getLogger(__name__)

HUB = "hf-hub:"
CONFIG = "config.json"  # in a repository: what it holds, and the checksum of every file
FORMAT = 1


class HubError(OSError):
    """A repository that cannot be downloaded or written, or whose files are damaged."""


def parse(text: str) -> tuple[str, str | None]:
    """Split "hf-hub:<user>/<name>[@<revision>]" into repository and revision (None: its newest).

    Raises:
        ValueError: the form is another.
    """
    repository, at, revision = text.removeprefix(HUB).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")) or (at and not revision):
        raise ValueError(f"{text!r}: expected {HUB}<user>/<name>, with @<revision> after it if one is wanted")
    return repository, revision or None


def download(text: str) -> Path:
    """Download a repository, or take it from the cache if it is there or the hub cannot be reached.

    Args:
        text: "hf-hub:<user>/<name>[@<revision>]".

    Returns:
        The folder of its files, whose checksums have been verified.

    Raises:
        ValueError: the form of `text`.
        HubError: the repository cannot be downloaded and is not cached, or a file is damaged.
    """
    repository, revision = parse(text)
    hub = _client()
    try:
        folder = Path(hub.snapshot_download(repository, revision=revision))
    except Exception as error:  # the client raises its own types and those of its HTTP library
        raise HubError(f"{text}: cannot be downloaded ({_reason(error)}). Check name, revision and access") from error
    verify(folder, text)
    return folder


def verify(folder: Path, name: str) -> None:
    """Compare every file with the checksum in `config.json`.

    Raises:
        HubError: `config.json` is missing or not ours, or a file is missing or differs.
    """
    try:
        checksums = json.loads((folder / CONFIG).read_text())["checksums"]
        items = [(str(file), str(digest)) for file, digest in checksums.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubError(f"{name}: {CONFIG} ({error!r}); expected a repository that `caspl push` wrote") from error
    for file, digest in items:
        path = folder / Path(file).name
        if not path.is_file() or sha256(path) != digest:
            raise HubError(f"{name}: {file} is missing or damaged; expected sha256 {digest}. Delete its cached copy")


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a folder that `bundle` wrote.

    Args:
        folder: its files, config.json among them.
        repository: "<user>/<name>", created if it does not exist.
        private: create it as a private one.

    Returns:
        The repository's address.

    Raises:
        ValueError: the form of `repository`.
        HubError: the hub rejects it, or cannot be reached.
    """
    name, _ = parse(repository)
    hub = _client()
    try:
        address = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=str(folder), commit_message=f"Upload with caspl {__version__}")
    except Exception as error:  # the client raises its own types and those of its HTTP library
        raise HubError(f"{repository}: cannot be written ({_reason(error)}). Log in with `hf auth login`") from error
    return str(address)


def _client():
    try:
        import huggingface_hub
    except ImportError as error:
        raise HubError(f"huggingface_hub cannot be imported ({error}): pip install 'caspl[hub]'") from error
    return huggingface_hub


def _reason(error: Exception) -> str:
    """Return the first line of an error, without anything that looks like a token."""
    lines = str(error).strip().splitlines() or [""]
    words = ["<token>" if word.strip("'\"(),").startswith("hf_") else word for word in lines[0].split()]
    return f"{type(error).__name__}: {' '.join(words)}"

"""Where a run or a prompt comes from: a folder, or a repository of the Hugging Face hub."""

from pathlib import Path

from ..storage.hub import HUB, download

LOCAL = "local-dir:"


def local_folder(what: str | Path) -> Path:
    """Return the local folder of a run.

    Args:
        what: a folder, "local-dir:<folder>", or "hf-hub:<user>/<name>[@<revision>]", which is downloaded.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no run.
        HubError: the repository cannot be downloaded.
    """
    text = str(what)
    folder = download(text) if text.startswith(HUB) else Path(text.removeprefix(LOCAL)).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: does not exist; expected the folder of a finished run")
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder}: no config.yaml in it; expected the folder of a finished run")
    return folder

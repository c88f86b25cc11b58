"""Unpack downloaded archives without trusting them."""

import lzma
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

_LARGEST_RATIO = 1000  # of unpacked to packed size; images hardly compress
_SMALL = 100 * 2**20  # bytes; the ratio of smaller files does not matter
_IGNORED = ("__MACOSX",)
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, lzma.LZMAError)


def unpack_zip(archive: Path, target: Path) -> None:
    """Unpack a ZIP archive into a new folder.

    Args:
        archive: the file.
        target: the folder, which must not exist.

    Raises:
        OSError: the archive is damaged, contains links or paths that leave the folder, or is larger than the free disk
            space. `target` may contain some files then.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [info for info in file.infolist() if not info.is_dir()]
            _check_size(archive, members, shutil.disk_usage(archive.parent).free)
            target.mkdir(parents=True)
            for info in members:
                path = _member_path(archive, info)
                if path.parts[0] in _IGNORED:
                    continue
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                _extract(file, info, target / path)
    except _DAMAGED as error:
        raise OSError(
            f"{archive}: damaged archive ({error}); expected a ZIP file. Delete it and fetch again"
        ) from error


def _extract(file: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    try:
        with file.open(info) as source, open(path, "xb") as copy:  # "x" follows no existing link
            shutil.copyfileobj(source, copy, 1 << 20)
    except OSError as error:
        if error.errno is None:  # bz2's way to report damaged data
            raise zipfile.BadZipFile(str(error)) from error
        raise


def unpack_inner(folder: Path) -> None:
    """Unpack the ZIP archives in a folder, and delete them.

    Each goes into a folder of its name next to it.

    Raises:
        OSError: as `unpack_zip` does.
    """
    for archive in sorted(folder.rglob("*.zip")):
        target = archive.with_suffix("")
        if archive.is_file() and not target.exists():
            unpack_zip(archive, target)
            archive.unlink()
            if [path.name for path in target.iterdir()] == [target.name]:
                aside = target.rename(target.with_name(f"{target.name}.outer"))
                (aside / target.name).rename(target)
                aside.rmdir()


def _check_size(archive: Path, members: list[zipfile.ZipInfo], free: int) -> None:
    total = sum(info.file_size for info in members)
    packed = max(archive.stat().st_size, 1)
    if total > free:
        raise OSError(f"{archive}: {total / 1e9:.1f} GB unpacked; {free / 1e9:.1f} GB are free. Free some space")
    if total > _SMALL and total > _LARGEST_RATIO * packed:
        raise OSError(f"{archive}: {total} bytes unpacked from {packed}; expected images. Delete the file")


def _member_path(archive: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    path = PurePosixPath(info.filename.replace("\\", "/"))
    mode = info.external_attr >> 16
    outside = path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in str(path)
    if outside or (mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode)):
        raise OSError(
            f'{archive}: member "{info.filename[:100]}"; expected regular files below one folder. Delete the file'
        )
    return path

"""Archives with hostile members are rejected."""

import stat
import zipfile

import pytest

from datasets.archives import unpack_zip


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    """Write a ZIP archive of (name or ZipInfo, bytes) pairs."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def member(name, mode):
    """Return a member with a file type."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "bad",
    [
        ("../outside", b"x"), ("a/../../outside", b"x"), ("/tmp/outside", b"x"), ("..\\outside", b"x"),
        ("C:\\outside", b"x"), (member("link", stat.S_IFLNK | 0o777), b"/etc/passwd"),
        (member("pipe", stat.S_IFIFO | 0o644), b""),
    ],
)  # fmt: skip
def test_member_outside_the_folder_is_rejected(tmp_path, bad):
    path = archive(tmp_path / "a.zip", [("good/1.txt", b"1"), bad])
    with pytest.raises(OSError, match="expected regular files"):
        unpack_zip(path, tmp_path / "target")
    assert not (tmp_path / "outside").exists() and not (tmp_path / "target/link").is_symlink()


def test_compression_bomb_is_rejected(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.zip", [("a", bytes(200 * 2**20))])
    with pytest.raises(OSError, match="expected images|unpacked"):
        unpack_zip(path, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_member_twice_is_rejected(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive(tmp_path / "a.zip", [("a", b"1"), ("a", b"2")])
    with pytest.raises(OSError, match="File exists"):
        unpack_zip(path, tmp_path / "target")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_changed_bytes_are_rejected(tmp_path, method):
    path = archive(tmp_path / "a.zip", [("a", bytes(range(256)) * 9)], method)
    data = bytearray(path.read_bytes())
    data[45:75] = bytes(value ^ 255 for value in data[45:75])
    path.write_bytes(data)
    with pytest.raises(OSError, match="damaged archive"):
        unpack_zip(path, tmp_path / "target")

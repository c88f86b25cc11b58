"""Writers and locks replace only regular files, work on read-only disks, and need nothing POSIX-only."""

import errno
import os
import subprocess
import sys

import pytest
from children import ALONE

from trainers.storage import locks
from trainers.storage.atomic import remove_parts, replacing
from trainers.storage.locks import locked
from trainers.training.log import announce, logging_to


def pipe(path):
    """Create a named pipe."""
    os.mkfifo(path)


def link(path):
    """Create a link to a file that must not change."""
    path.with_name("victim").write_text("precious")
    path.symlink_to(path.with_name("victim"))


def folder(path):
    """Create a folder."""
    path.mkdir()


@pytest.mark.parametrize(("create", "named"), [(pipe, "a named pipe"), (link, "a link"), (folder, "a folder")])
def test_writer_rejects_other_than_regular_file(tmp_path, create, named):
    create(tmp_path / "file")
    before = os.lstat(tmp_path / "file")
    with pytest.raises(OSError, match=rf"file: {named}; expected a regular file or none"):
        with replacing(tmp_path / "file") as aside:
            aside.write_text("new")
    assert os.lstat(tmp_path / "file") == before and not list(tmp_path.glob("*.part"))
    assert create is not link or (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("create", [pipe, link, folder])
def test_lock_rejects_other_than_regular_file(tmp_path, create):
    create(tmp_path / ".run.lock")
    with pytest.raises(OSError, match=r"\.run\.lock is not a regular file"), locked(tmp_path / "run"):
        pass
    assert create is not link or (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("create", [pipe, link, folder])
def test_log_rejects_other_than_regular_file(tmp_path, create):
    create(tmp_path / "log.txt")
    with pytest.raises(OSError), logging_to(tmp_path):
        pass
    assert create is not link or (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_finished_run_is_read_on_read_only_disk(tmp_path, monkeypatch, number):
    def read_only(*args):
        raise OSError(number, "not writable")

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(locks, "_opened", read_only)
    with locked(tmp_path / "run"):
        pass
    with pytest.raises(OSError, match="give another folder"), locked(tmp_path / "new"):
        pass


def test_evaluation_needs_no_log(tmp_path, capsys):
    (tmp_path / "log.txt").mkdir()
    with logging_to(tmp_path, needed=False):
        announce("accuracy %d", 7)
    assert capsys.readouterr().out == "accuracy 7\n"


def test_left_over_parts_are_removed_in_all_folders(tmp_path):
    (tmp_path / "model").mkdir()
    for name in (".a.x.part", "model/.b.y.part", "model/.c.1.tmp", "model/kept"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "model"]


WITHOUT = """
import asyncio, os, sys  # asyncio of this system needs what is taken away
sys.modules.update(fcntl=None, resource=None)
for name in ("sysconf", "sysconf_names", "sched_getaffinity", "mkfifo"):
    if hasattr(os, name): delattr(os, name)
import trainers
from trainers.storage.locks import locked
from trainers.experiments import runs, grid, cluster
from trainers.cli import train, protocols, data, convert
from trainers.training.parallel import cores
with locked(sys.argv[1]), locked(sys.argv[1]): pass
with locked(sys.argv[1]): print("locked", cores() > 0)
"""


def test_package_works_without_fcntl(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=ALONE, timeout=200)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "locked True", done.stderr[-2000:]

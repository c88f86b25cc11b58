"""The console of a run: announced lines and warnings; everything else is in log.txt only."""

import logging
import re
import warnings

import protocol
import pytest
import toy

from trainers.cli import train
from trainers.training.log import announce, logging_to


def test_console_shows_announcements_and_warnings_only(tmp_path, capsys):
    with logging_to(tmp_path):
        logging.getLogger("dassl").info("Loaded 7 tensors")
        logging.getLogger("dassl").warning("Skipped 3 images")
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        print("printed by a toolbox")
        announce("accuracy %.1f", 50)
    assert capsys.readouterr().out == "warning: Skipped 3 images\naccuracy 50.0\n"
    log = (tmp_path / "log.txt").read_text()
    for line in ("Loaded 7 tensors\n", "warning: Skipped 3 images\n", "printed by a toolbox\n", "accuracy 50.0\n"):
        assert line in log


@pytest.mark.parametrize(("epochs", "lines"), [(4, 1), (10, 2), (12, 3)])
def test_console_has_one_line_per_five_epochs(tmp_path, capsys, epochs, lines):
    protocol.prepare(tmp_path)
    train.run(toy.command(tmp_path, "CasPL", tmp_path / "run", OPTIM__MAX_EPOCH=epochs))
    out = capsys.readouterr().out
    found = re.findall(
        rf"^epoch \d+/{epochs}  loss \d+\.\d\d  agreement with the teacher [01]\.\d\d$", out, re.MULTILINE
    )
    assert len(found) == lines and out.count("epoch ") == lines and found[-1].startswith(f"epoch {epochs}/")
    assert "batch [" not in out and "batch [" in (tmp_path / "run" / "log.txt").read_text()

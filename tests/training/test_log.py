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


@pytest.mark.parametrize(
    ("host", "terms"),
    [
        ("PromptSRC", ("cross-entropy", "text consistency", "image consistency", "logit consistency")),
        ("KgCoOp", ("cross-entropy", "distance to the zero-shot class vectors")),
    ],
)
def test_console_names_loss_terms_in_words(tmp_path, capsys, host, terms):
    protocol.prepare(tmp_path)
    train.run(toy.command(tmp_path, host, tmp_path / "run", OPTIM__MAX_EPOCH=1))
    figures = "".join(rf"  {term} -?\d+\.\d\d" for term in ("loss", "training accuracy", *terms))
    assert re.search(rf"^epoch 1/1{figures}$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("half", "classes"),
    [("all", "6 classes of Toy"), ("base", "the 3 base classes of Toy"), ("new", "the 3 new classes of Toy")],
)
def test_console_names_the_evaluated_half_of_the_classes(tmp_path, capsys, half, classes):
    protocol.prepare(tmp_path)
    line = toy.command(tmp_path, "ZeroshotCLIP", tmp_path / "run", DATASET__SUBSAMPLE_CLASSES=half)
    train.run([*line, "--eval-only"])
    assert re.search(rf"^ZeroshotCLIP on {classes}: accuracy \d+\.\d\d$", capsys.readouterr().out, re.MULTILINE)

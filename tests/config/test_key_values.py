"""Every configuration key with invalid values: rejected in one line, or a run that works."""

import functools
import json
import math
import random
import subprocess
import sys

import protocol
import pytest
import toy
from children import ALONE
from dassl.config import get_cfg_default

from trainers import config
from trainers.cli import train
from trainers.cli.program import guarded
from trainers.config import FIELDS, ConfigError, Field, fields_of
from trainers.config.keys import NOT_DASSLS
from trainers.experiments.setup import default_cfg

TRAINERS = ("CasPL", "CasPL_CoOp", "CoOp", "CoCoOp", "MaPLe", "PromptSRC", "ZeroshotCLIP")
NUMBERS = (
    "None",
    "nan",
    "inf",
    "-inf",
    "-7",
    "0",
    str(2**70),
    "1e300",
    "",
    "some words",
    "[]",
    "[1, [2]]",
    "{}",
    "True",
)
TEXTS = ("None", "-7", "2.5", "[]", "x" * 5000, "a\nb", "\0")
KEYS = sorted({(field.name, trainer) for trainer in TRAINERS for field in fields_of(trainer)})
ONCE = sorted(
    {key: trainer for key, trainer in reversed(KEYS)}.items()
)  # each key with the first trainer that reads it


def bad_values(field):
    """Return values that are of another type, or outside of any sensible range."""
    values = TEXTS if field.type is str and not field.many else NUMBERS
    return [*values, repr([3, None]), repr(("x",) * 2000)] if field.many else values


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs and a boosting prompt."""
    root = tmp_path_factory.mktemp("keys")
    protocol.prepare(root)
    train.run(toy.command(root, "CasPL", root / "boost"))
    return root


def command(root, trainer, folder, *pairs):
    """Return a command line that sets KEY VALUE pairs last."""
    more = {"TRAINER__CASPL__CHECKPOINT": root / "boost"} if trainer.startswith("CasPL_") else {}
    return [*toy.command(root, trainer, folder, **more), *pairs]


@pytest.mark.parametrize(("key", "trainer"), ONCE)
def test_bad_values_of_a_key_are_rejected_or_in_its_range(root, tmp_path, key, trainer):
    field = FIELDS[key]
    for value in bad_values(field):
        line = command(root, trainer, tmp_path / "run", key, value)
        try:
            cfg = train.setup_cfg(train.parse(line))
        except (ConfigError, ValueError) as error:
            message = str(error)
            assert "\n" not in message and len(message) < 1000, message[:2000]
            assert key in message or type(error) is not ConfigError or value in message, message
        else:
            assert field.problem(config.value_of(cfg, key)) == "", (key, value)
            assert not isinstance(config.value_of(cfg, key), float) or math.isfinite(config.value_of(cfg, key))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("key", "trainer"), ONCE)
def test_accepted_value_trains(root, tmp_path, capsys, monkeypatch, key, trainer):
    monkeypatch.chdir(tmp_path)  # a value may be a relative path
    field = FIELDS[key]
    if field.name in ("OUTPUT_DIR", "DATASET.ROOT", "RESUME", "DATALOADER.NUM_WORKERS", "OPTIM.MAX_EPOCH"):
        pytest.skip("set by the command line of the test")
    for number, value in enumerate(bad_values(field)):
        folder = tmp_path / str(number)
        line = command(root, trainer, folder, key, value)
        code = guarded(functools.partial(train.run, line))
        error = capsys.readouterr().err
        assert code in (0, 2) and "Traceback" not in error
        assert code == 0 or (error.startswith("error: ") and error.count("\n") == 1 and not folder.exists()), (
            value,
            error,
        )


def test_fifty_bad_values_on_the_command_line(root, tmp_path):
    drawn = random.Random(7).sample([(k, t, v) for k, t in ONCE for v in bad_values(FIELDS[k]) if "\0" not in v], 50)
    script = (
        "import json, sys; from trainers.cli.train import main; import contextlib, io\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    out = io.StringIO()\n"
        "    with contextlib.redirect_stderr(out):\n"
        "        code = main(line)\n"
        "    print('RESULT', json.dumps([code, out.getvalue()]), flush=True)\n"
    )
    lines = [command(root, t, tmp_path / str(i), "--no-train", k, v) for i, (k, t, v) in enumerate(drawn)]
    prelude = "import trainers, toy\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + script, json.dumps([[str(w) for w in line] for line in lines])],
        env=ALONE,
        cwd=tmp_path,  # a value may be a relative path
        capture_output=True,
        text=True,
        timeout=500,
    )
    results = [json.loads(row.split(" ", 1)[1]) for row in done.stdout.splitlines() if row.startswith("RESULT ")]
    assert len(results) == 50, done.stderr[-2000:]
    for (key, _, value), (code, error) in zip(drawn, results, strict=True):
        assert code in (0, 2), (key, value, code)
        assert code == 0 or (error.startswith("error: ") and error.count("\n") == 1), (key, value, error)


def test_defaults_are_those_of_dassl():
    cfg = get_cfg_default()
    for field in FIELDS.values():
        if field.name not in NOT_DASSLS and field.name.split(".")[0] != "TRAINER":
            assert config.value_of(cfg, field.name) == field.default, field.name


@pytest.mark.parametrize("trainer", TRAINERS)
def test_defaults_of_a_host_are_in_range(trainer):
    cfg = default_cfg()
    cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME, cfg.OUTPUT_DIR = trainer, "shapes-student", "out"
    assert config.problems(cfg) == []


@pytest.mark.parametrize("field", FIELDS.values(), ids=lambda field: field.name)
def test_every_key_is_documented_and_bounded(field):
    assert field.meaning and "\n" not in field.meaning and field.expected()
    assert (
        field.choices is not None
        or field.type in (bool, str)
        or (
            (field.least is not None or field.above is not None) and (field.most is not None or field.below is not None)
        )
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", 3), (3, 3), ("3.0", None), (True, None), ("None", None), (None, None), ("99999999", 99999999)],
)
def test_conversion_of_integers(value, expected):
    field = Field("A", 1, "a number", least=0, most=10)
    if expected is None:
        with pytest.raises(ValueError, match="a whole number 0 or more and at most 10"):
            field.convert(value)
    else:
        assert field.convert(value) == expected


def test_conversion_of_numbers_and_texts():
    assert Field("A", 1.0, "a number").convert("1e-5") == 1e-5
    assert Field("A", "", "text").convert("'a'") == "a"
    assert Field("A", "", "a folder", path=True).convert("2024") == "2024"
    assert Field("A", (1, 2), "numbers").convert([3, 4]) == (3, 4)
    with pytest.raises(ValueError, match="text"):
        Field("A", "", "text").convert("2024")

"""A key that a record lacks, because a later version added it, counts as its default: never as what is asked for now.

Generated over every trainer and every key that determines its numbers: identity.json, progress and checkpoints (which
hold the same identity), config.yaml, result.json, the settings of an existing boosting prompt, the identity of the prompt,
and tables.
"""

import json
from pathlib import Path

import pytest
from dassl.data.transforms import build_transform
from test_identity import nested

from trainers import config
from trainers.config import FIELDS, OnlyWith, fields_of
from trainers.experiments import comparison
from trainers.experiments.result import Result
from trainers.experiments.setup import default_cfg
from trainers.method.identity import boosting_identity
from trainers.results.read import Run
from trainers.results.variants import separated
from trainers.training import identity

DEFAULT = default_cfg()
HOSTS = ("CoOp", "CoCoOp", "MaPLe", "PromptSRC", "KgCoOp", "TCP", "PromptKD")
TRAINERS = ("CasPL", "ZeroshotCLIP", *HOSTS, *(f"CasPL_{host}" for host in HOSTS))
TRANSFORMS = {"random_resized_crop", "random_crop", "colorjitter", "randomgrayscale", "gaussian_blur", "normalize"}
OTHERS = {
    "DATASET.NAME": "Shapes",
    "TRAINER.CASPL.TEACHER.RUNS": ["one", "two"],
    "INPUT.TRANSFORMS": ["cutout"],
    "INPUT.GB_K": 23,
}


def numbers(trainer):
    """Return the fields that determine a trainer's numbers; its name is compared separately."""
    found = [field for field in fields_of(trainer) if not field.place and field.name != "TRAINER.NAME"]
    return [field for field in found if field.choices is None or field.many or len(field.allowed()) > 1]


def other_value(field):
    """Return an accepted value that is not the default."""
    default = field.initial()
    if field.name in OTHERS:
        return OTHERS[field.name]
    if field.choices is not None and not field.many:
        return next(value for value in field.allowed() if value != default)
    if field.many:
        candidates = [[*default[:-1], item] for item in (0.7, 0.3, 7)] if default else [["x"]]
    elif field.type in (bool, str):
        candidates = [not default, "word {}"][field.type is str :]
    else:
        candidates = [default + 1, default / 2, default - 0.05, 1]
    return next(value for value in candidates if value != default and not field.problem(_typed(field, value)))


def _typed(field, value):
    kind = field.type
    return type(field.default)(map(kind, value)) if field.many else kind(value)


def asked(trainer, field=None, value=None):
    """Return a trainer's configuration in which it reads a field, with a value."""
    cfg = DEFAULT.clone()
    cfg.TRAINER.NAME = trainer
    if field is not None:
        if field.name.endswith(".N_CTX"):
            config.put(cfg, field.name.replace("N_CTX", "CTX_INIT"), "")
        if field.name == "TRAINER.CASPL.CTX_INIT":
            cfg.TRAINER.CASPL.N_CTX_TEXT = 4
        if isinstance(field.unread, OnlyWith):
            config.put(cfg, field.unread.key, _typed(FIELDS[field.unread.key], _listed(field.unread)))
        elif field.unread is not None and "WARMUP" in field.name:
            cfg.OPTIM.WARMUP_EPOCH = 1
            cfg.OPTIM.WARMUP_TYPE = "constant" if "CONS" in field.name else "linear"
        elif field.unread is not None and "MEAN" in field.name:
            cfg.TRAINER.CASPL.TEACHER.RUNS = ["one", "two"]
        assert field.unread is None or not field.unread(cfg), field.name
        if value is not None:
            config.put(cfg, field.name, _typed(field, value))
    cfg.freeze()
    return cfg


def _listed(condition):
    return [condition.values[0]] if FIELDS[condition.key].many else condition.values[0]


def identity_of(cfg):
    """Return an identity with a configuration's settings, as `identity.json` holds it."""
    return {"format": 1, "trainer": cfg.TRAINER.NAME, "settings": identity.settings(cfg)}


def record_without(cfg, key):
    """Return the recorded configuration of a run, without a key."""
    kept = json.loads(json.dumps(dict(config.leaves(config.used(cfg))), default=list))
    del kept[key]
    return nested(kept)


def changed_config(cfg, path):
    """Return what differs from a config.yaml."""
    try:
        config.check_kept(cfg, path)
    except config.ConfigError as error:
        return [str(error)]
    return []


def changed_result(cfg, record, folder):
    """Return what differs from a result.json."""
    made = Result("few_shot", "shapes", cfg.TRAINER.NAME, {"test": {"accuracy": 1.0}}, configuration=record)
    return comparison.changed_settings(cfg, made, folder)[1]


def changed_boosting(cfg, path, key):
    """Return what differs from the settings of an existing boosting prompt."""
    value = config.value_of(cfg, key)
    recipe = cfg.clone()
    recipe.defrost()
    try:  # that it is in the recipe already must not hide it
        comparison.compare_boosting(recipe, path, [key, value if isinstance(value, str) else repr(value)], ())
    except config.ConfigError as error:
        return [str(error)]
    return []


def first_read_by(trainer):
    """Return the keys that no trainer before it in `TRAINERS` reads: each key is tried once."""
    before = {field.name for other in TRAINERS[: TRAINERS.index(trainer)] for field in numbers(other)}
    return [field for field in numbers(trainer) if field.name not in before]


EACH_KEY_ONCE = [pytest.param(name, first_read_by, id=name) for name in TRAINERS if first_read_by(name)]
EACH_TRAINER = [pytest.param(name, numbers, id=f"{name}-all", marks=pytest.mark.slow) for name in TRAINERS]


@pytest.mark.parametrize(("trainer", "chosen"), [*EACH_KEY_ONCE, *EACH_TRAINER])
def test_missing_key_counts_as_its_default(trainer, chosen, tmp_path, monkeypatch):
    apart, path = identity._APART, tmp_path / "config.yaml"
    path.touch()
    for field in chosen(trainer):
        key, same, other = field.name, asked(trainer, field), asked(trainer, field, other_value(field))
        record = record_without(same, key)
        for module in (config, config.kept):
            monkeypatch.setattr(
                module, "read_yaml", lambda path, record=record: record
            )  # PyYAML takes a third of a second
        found = {
            "config.yaml": changed_config(other, path),
            "result.json": changed_result(other, record, tmp_path / "no"),
        }
        assert not changed_result(same, record, tmp_path / "no") and not changed_config(same, path), key
        if trainer == "CasPL":
            found["boosting prompt"] = changed_boosting(other, path, key)
            assert not changed_boosting(same, path, key), key
        kept = identity_of(same)
        if key in kept["settings"] and key not in apart:
            del kept["settings"][key]
            assert not identity.differences(identity_of(same), kept), key
            if not trainer.startswith("CasPL_") or not key.startswith("TRAINER.CASPL.") or key in identity._OF_PHASE_2:
                found["identity.json"] = identity.differences(identity_of(other), kept)
                if key.startswith("TRAINER.") and identity.differences_applied(identity_of(other), identity_of(same)):
                    found["--eval-only"] = identity.differences_applied(identity_of(other), kept)
        else:
            assert key in apart, key
        for where, lines in found.items():
            assert any(key in line for line in lines), f"{key} is not compared with {where}"


@pytest.mark.parametrize(("trainer", "chosen"), [*EACH_KEY_ONCE, *EACH_TRAINER])
def test_missing_key_tells_runs_of_a_table_apart(trainer, chosen):
    read_apart = {"SEED", "DATASET.NAME", "DATASET.NUM_SHOTS", "TRAIN.CHECKPOINT_FREQ"}
    for field in chosen(trainer):
        zero_shot = trainer == "ZeroshotCLIP" and field.name.startswith(
            ("TRAINER.", "OPTIM.", "TRAIN.", "DATALOADER.TR")
        )
        if field.name in read_apart or zero_shot:
            continue
        settings = json.loads(json.dumps(dict(config.leaves(config.used(asked(trainer, field)))), default=list))
        old = {key: value for key, value in settings.items() if key != field.name}
        for value, variants in ((settings[field.name], 1), (other_value(field), 2)):
            new = settings | {field.name: value}
            runs = [
                Run("few_shot", "Shapes", "", trainer, seed, 1, {"accuracy": 1.0}, "all", Path(f"{seed}"), one)
                for seed, one in enumerate((old, new))
            ]
            assert len({run.variant for run in separated(runs)}) == variants, (field.name, value)


def test_identity_of_boosting_prompt_counts_missing_keys_as_defaults(monkeypatch):
    for field in numbers("CasPL"):
        same, other = asked("CasPL", field), asked("CasPL", field, other_value(field))
        if not field.name.startswith(("SEED", "INPUT.", "OPTIM.", "DATALOADER.TRAIN_X.", "TRAINER.CASPL.")):
            continue
        if field.name.endswith((".IMAGES", "TEACHER.BACKBONE", "TEACHER.RUN", "TEACHER.RUNS")):
            continue  # their contents are fingerprinted
        before = boosting_identity(same, "data", "teacher", "student")
        assert boosting_identity(other, "data", "teacher", "student") != before, field.name
        if field.name not in ("TRAINER.CASPL.TEACHER.TEMPLATE", "TRAINER.CASPL.TEACHER.CACHE"):
            with monkeypatch.context() as patch:
                patch.delitem(FIELDS, field.name)
                assert boosting_identity(same, "data", "teacher", "student") == before, field.name


def test_features_of_other_augmentations_are_kept_apart():
    for field in FIELDS.values():
        if field.name.startswith("INPUT.") and field.name != "INPUT.TRANSFORMS":
            same, other = asked("PromptSRC", field), asked("PromptSRC", field, other_value(field))
            if {*same.INPUT.TRANSFORMS} <= TRANSFORMS:
                assert repr(build_transform(same, True)) != repr(build_transform(other, True)), field.name

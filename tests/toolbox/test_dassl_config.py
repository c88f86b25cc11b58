"""The substitute's defaults and schedules against numbers recorded from Dassl 0.6.3 (golden/toolbox)."""

import json
import warnings
from pathlib import Path

import dassl
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer

from trainers.training.resume import plain

if not dassl.__version__.endswith("+standin"):
    pytest.skip("the real Dassl is installed: the substitute is not in use", allow_module_level=True)

GOLDEN = Path(__file__).parents[1] / "golden" / "toolbox"
SCHEDULES = json.loads((GOLDEN / "lr_schedules.json").read_text())


def as_json(node):
    """Convert a configuration to the types of JSON."""
    if isinstance(node, dict):
        return {key: as_json(value) for key, value in node.items()}
    return list(node) if isinstance(node, tuple) else node


def optim_cfg(**values):
    cfg = get_cfg_default()
    cfg.OPTIM.merge_from_list([item for pair in values.items() for item in pair])
    return cfg.OPTIM


def schedule(epochs, **values):
    """Return the optimiser, the scheduler and the learning rates of the first `epochs` epochs."""
    node = optim_cfg(**values)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), node)
    scheduler = build_lr_scheduler(optimizer, node)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler, rates


def as_keys(node, prefix=""):
    """Return {key with dots: value} of nested dictionaries."""
    pairs = [as_keys(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in node.items()]
    return {key: value for pair in pairs for key, value in pair.items()}


def test_defaults_match_dassl():
    golden = as_keys(json.loads((GOLDEN / "config_defaults.json").read_text())["defaults"])
    found = as_keys(as_json(get_cfg_default()))
    assert len(found) > 60 and found == {key: golden[key] for key in found}


def test_defaults_are_fresh_each_time():
    first = get_cfg_default()
    first.DATALOADER.TRAIN_X.BATCH_SIZE = 1
    first.INPUT.PIXEL_MEAN[0] = 0.0
    first.freeze()
    second = get_cfg_default()
    assert second.DATALOADER.TRAIN_X.BATCH_SIZE == 32
    assert second.INPUT.PIXEL_MEAN[0] == 0.485
    second.NEW = 1  # not frozen


@pytest.mark.parametrize("golden", SCHEDULES, ids=lambda g: f"{g['optim']['LR_SCHEDULER']}-{g['optim']['LR']}")
def test_schedule_matches_dassl(golden):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer, _, rates = schedule(len(golden["lr_of_epoch"]), **golden["optim"])
    assert rates == pytest.approx(golden["lr_of_epoch"], rel=1e-12)
    assert type(optimizer).__name__ == golden["optimizer"]
    group = {key: value for key, value in optimizer.param_groups[0].items() if key in golden["group"]}
    assert {"weight_decay", "maximize", "differentiable"} < set(group)
    assert as_json(group) == {key: golden["group"][key] for key in group}


WARM = {"WARMUP_EPOCH": 2, "MAX_EPOCH": 8, "STEPSIZE": (3, 5)}
RESUMED = [
    {"LR_SCHEDULER": "cosine", "WARMUP_TYPE": "constant", **WARM},
    {"LR_SCHEDULER": "cosine", "WARMUP_TYPE": "linear", "WARMUP_RECOUNT": False, **WARM},
    {"LR_SCHEDULER": "multi_step", "WARMUP_TYPE": "linear", **WARM},
    {"LR_SCHEDULER": "single_step", "MAX_EPOCH": 8, "STEPSIZE": (3,)},
    {"LR_SCHEDULER": "multi_step", "MAX_EPOCH": 8, "STEPSIZE": (3, 5)},
]


@pytest.mark.parametrize("values", RESUMED, ids=lambda v: f"{v['LR_SCHEDULER']}-{v.get('WARMUP_TYPE')}")
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_resumed_schedule_continues(values, stop, tmp_path):
    """A schedule restored from a safe checkpoint after `stop` epochs continues the same curve."""
    whole = schedule(8, **values)[2]
    assert len(set(whole)) > 2
    optimizer, scheduler, _ = schedule(stop, **values)
    torch.save([plain(optimizer.state_dict()), plain(scheduler.state_dict())], tmp_path / "state")
    saved_optimizer, saved_scheduler = torch.load(tmp_path / "state", weights_only=True)
    optimizer, scheduler, _ = schedule(0, **values)
    optimizer.load_state_dict(saved_optimizer)
    scheduler.load_state_dict(saved_scheduler)
    rates = []
    for _ in range(stop, 8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == whole[stop:]


def test_scheduler_state_is_plain_data():
    state = schedule(3, **RESUMED[0])[1].state_dict()
    assert json.loads(json.dumps(state)) == state
    assert state["successor"]["T_max"] == 8


def test_schedule_without_recount_starts_later():
    """Without WARMUP_RECOUNT, the cosine continues from the warm-up's epoch and ends earlier."""
    values = {"LR_SCHEDULER": "cosine", "LR": 0.01, "WARMUP_EPOCH": 2, "MAX_EPOCH": 8}
    recounted = schedule(6, **values)[2]
    running = schedule(6, WARMUP_RECOUNT=False, **values)[2]
    assert running[:3] == recounted[:3]
    assert all(early < late for early, late in zip(running[3:], recounted[3:], strict=True))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_optimizer_takes_parameters_or_groups(name):
    parameter = torch.nn.Parameter(torch.ones(2))
    for given in ([parameter], [{"params": [parameter], "lr": 0.25}]):
        optimizer = build_optimizer(given, optim_cfg(NAME=name))
        parameter.grad = torch.ones(2)
        before = parameter.detach().clone()
        optimizer.step()
        assert (parameter < before).all()
    assert optimizer.param_groups[0]["lr"] == 0.25
    given = build_optimizer(None, optim_cfg(NAME=name), param_groups=[parameter])
    assert given.param_groups[0]["params"][0] is parameter


def test_optim_errors_name_what_is_wrong():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match='"sdg" is unknown; did you mean "sgd"'):
        build_optimizer(model, optim_cfg(NAME="sdg"))
    optimizer = build_optimizer(model, optim_cfg())
    with pytest.raises(ValueError, match='did you mean "cosine"'):
        build_lr_scheduler(optimizer, optim_cfg(LR_SCHEDULER="cosin"))
    with pytest.raises(ValueError, match='"square" is unknown.*constant, linear'):
        build_lr_scheduler(optimizer, optim_cfg(WARMUP_EPOCH=1, WARMUP_TYPE="square"))
    with pytest.raises(TypeError, match=r"STEPSIZE of single_step: 0.5; expected an integer"):
        build_lr_scheduler(optimizer, optim_cfg(STEPSIZE=(0.5,)))

"""The substitute's registry, files, checkpoints, log and small helpers."""

import json
import logging
import random
import sys

import dassl
import numpy as np
import pytest
import torch
from dassl import utils
from torch import nn

if not dassl.__version__.endswith("+standin"):
    pytest.skip("the real Dassl is installed: the substitute is not in use", allow_module_level=True)


# Names


def test_registry():
    registry = utils.Registry("ANIMAL")

    @registry.register()
    class Crane:
        pass

    class Tench:
        pass

    registry.register(Tench)
    assert registry.get("Crane") is Crane
    assert registry.registered_names() == ["Crane", "Tench"]
    with pytest.raises(KeyError, match="ANIMAL registry: .*did you mean .*Crane.*Crane, Tench"):
        registry.get("Crain")
    with pytest.raises(KeyError, match="ANIMAL registry: .*already registered"):
        registry.register(Tench)

    other = type("Crane", (), {})
    registry.register(other, force=True)
    assert registry.get("Crane") is other


def test_names():
    utils.check_availability("a", ["a", "b"])
    with pytest.raises(ValueError, match='"CoOb" is unknown; did you mean "CoOp"\\? Known: MaPLe, CoOp'):
        utils.check_availability("CoOb", ["MaPLe", "CoOp"])
    with pytest.raises(ValueError, match="import the module that registers it"):
        utils.check_availability("CoOp", [])


# Files


def test_json_and_folders(tmp_path, caplog):
    path = tmp_path / "new" / "folder" / "x.json"
    utils.write_json({"a": [1]}, path)
    assert utils.read_json(path) == {"a": [1]}
    assert path.read_text() == '{\n    "a": [\n        1\n    ]\n}'
    (tmp_path / ".hidden").touch()
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    assert utils.listdir_nohidden(tmp_path, sort=True) == ["a", "b", "new"]
    utils.mkdir_if_missing(tmp_path / "new")
    utils.mkdir_if_missing("")
    assert utils.check_isfile(path) and not caplog.records
    assert not utils.check_isfile(tmp_path / "none")
    assert "none" in caplog.text


def test_read_image(tmp_path):
    from PIL import Image

    Image.new("L", (4, 3), 7).save(tmp_path / "grey.png")
    image = utils.read_image(str(tmp_path / "grey.png"))
    assert image.mode == "RGB" and image.size == (4, 3)
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])
    with pytest.raises(OSError, match="broken.png"):
        utils.read_image(str(tmp_path / "broken.png"))
    with pytest.raises(FileNotFoundError, match="none.png"):
        utils.read_image(str(tmp_path / "none.png"))


# Meters and random numbers


def test_meters():
    meter = utils.AverageMeter()
    meter.update(torch.tensor(2.0), n=3)
    meter.update(6.0)
    assert (meter.val, meter.sum, meter.count, meter.avg) == (6.0, 12.0, 4, 3.0)
    metrics = utils.MetricMeter()
    metrics.update({"loss": torch.tensor(1.0), "acc": 50.0})
    metrics.update(None)
    metrics.update({"loss": 2.0})
    assert str(metrics) == "loss 2.0000 (1.5000) acc 50.0000 (50.0000)"
    with pytest.raises(TypeError, match="float"):
        metrics.update(1.0)


def draw():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()


def test_set_random_seed():
    utils.set_random_seed(1)
    first = draw()
    assert draw() != first
    utils.set_random_seed(1)
    assert draw() == first


def test_write_json_of_unknown_objects_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    utils.write_json({"old": 1}, path)
    with pytest.raises(TypeError):
        utils.write_json({"new": object()}, path)
    assert utils.read_json(path) == {"old": 1}


def test_env_info_names_versions():
    info = utils.collect_env_info()
    assert torch.__version__ in info and np.__version__ in info


# Checkpoints


def checkpoint_of(model, epoch=3):
    return {"state_dict": model.state_dict(), "epoch": epoch, "optimizer": None, "scheduler": None}


def test_save_checkpoint_layout(tmp_path):
    model = nn.Linear(2, 1)
    state = {**checkpoint_of(nn.DataParallel(model)), "val_result": np.float64(71.5)}
    keys = list(state["state_dict"])
    utils.save_checkpoint(state, tmp_path / "net", is_best=True)
    assert utils.listdir_nohidden(tmp_path / "net", sort=True) == [
        "checkpoint",
        "model-best.pth.tar",
        "model.pth.tar-3",
    ]
    assert (tmp_path / "net" / "checkpoint").read_text() == "model.pth.tar-3\n"
    assert list(state["state_dict"]) == keys == ["module.weight", "module.bias"]  # the caller's dictionary is unchanged
    saved = utils.load_checkpoint(tmp_path / "net" / "model-best.pth.tar")
    assert list(saved["state_dict"]) == ["weight", "bias"]
    assert torch.equal(saved["state_dict"]["weight"], model.weight)
    assert type(saved["val_result"]) is float and saved["val_result"] == 71.5
    utils.save_checkpoint(checkpoint_of(model), tmp_path / "net", model_name="other.tar")
    assert (tmp_path / "net" / "checkpoint").read_text() == "other.tar\n"


def test_load_checkpoint_errors(tmp_path):
    utils.save_checkpoint(checkpoint_of(nn.Linear(1, 1)), tmp_path)
    with pytest.raises(FileNotFoundError, match="tar-4: .* contains checkpoint, model.pth.tar-3"):
        utils.load_checkpoint(tmp_path / "model.pth.tar-4")
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        utils.load_checkpoint(tmp_path / "none" / "model.pth.tar-4")
    with pytest.raises(ValueError, match="None"):
        utils.load_checkpoint(None)
    torch.save({"epoch": 1, "scheduler": utils.AverageMeter()}, tmp_path / "objects")
    with pytest.raises(ValueError, match="objects: contains Python objects"):
        utils.load_checkpoint(tmp_path / "objects")
    whole = (tmp_path / "model.pth.tar-3").read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="half"):
        utils.load_checkpoint(tmp_path / "half")


def test_load_checkpoint_needs_the_readers_plug_in(tmp_path, monkeypatch):
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "plain")
    assert utils.load_checkpoint(tmp_path / "plain") == {"state_dict": {}, "epoch": 1}
    monkeypatch.setattr("dassl.utils.checkpoint.reader", None)
    with pytest.raises(RuntimeError, match="plain: dassl.utils.checkpoint.reader is not set"):
        utils.load_checkpoint(tmp_path / "plain")


def test_load_checkpoint_does_not_run_pickled_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": {}, "epoch": 1, "scheduler": Evil()}, tmp_path / "evil")
    with pytest.raises(ValueError, match="could run code"):
        utils.load_checkpoint(tmp_path / "evil")
    assert not (tmp_path / "ran").exists()


def test_resume_from_checkpoint_errors(tmp_path):
    model = nn.Linear(2, 1)
    (tmp_path / "model.pth.tar-3").touch()
    with pytest.raises(FileNotFoundError, match="checkpoint is missing.* contains model.pth.tar-3"):
        utils.resume_from_checkpoint(tmp_path, model)
    (tmp_path / "checkpoint").write_text("model.pth.tar-5\n")
    with pytest.raises(FileNotFoundError, match="model.pth.tar-5: .* contains checkpoint, model.pth.tar-3"):
        utils.resume_from_checkpoint(tmp_path, model)


def test_load_pretrained_weights(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save({"module.weight": source.weight.detach(), "bias": torch.zeros(9)}, tmp_path / "plain")
    bias = target.bias.detach().clone()
    utils.load_pretrained_weights(target, tmp_path / "plain")
    assert torch.equal(target.weight, source.weight) and torch.equal(target.bias, bias)
    assert "1 of the 2 tensors" in caplog.text and "does not fit: bias" in caplog.text
    utils.load_pretrained_weights(nn.Linear(5, 5), tmp_path / "plain")
    assert "no weight is loaded" in caplog.text


# The log


@pytest.fixture
def console(capsys):
    """Return a function that returns the console output since its last call; restore logging afterwards."""
    from dassl.utils import logger

    root = logging.getLogger()
    level = root.level
    yield lambda: capsys.readouterr().out
    logger._restore()
    root.setLevel(level)


def test_setup_logger(tmp_path, console):
    utils.setup_logger(str(tmp_path / "run"))
    print("printed", 1)
    logging.getLogger("dassl.engine.trainer").info("=> result\n* accuracy: %.1f%%", 50)
    logging.getLogger("other").warning("careful")
    logging.getLogger("other").debug("details")
    expected = "printed 1\n=> result\n* accuracy: 50.0%\nWARNING (other): careful\n"
    assert (tmp_path / "run" / "log.txt").read_text() == console() == expected
    sys.stdout.write("no line end")
    assert console() == ""  # the console shows a line when it is complete or flushed
    sys.stdout.flush()
    assert console() == "no line end"


def test_setup_logger_appends_to_existing_log(tmp_path, console):
    utils.setup_logger(str(tmp_path))
    print("first")
    utils.setup_logger(str(tmp_path))
    print("second")
    lines = (tmp_path / "log.txt").read_text().split("\n")
    assert lines[0] == "first" and lines[-2] == "second"
    assert console() == "first\nsecond\n"  # the second call replaced the first: no line twice
    utils.setup_logger(str(tmp_path / "eval.txt"))
    print("third")
    assert (tmp_path / "eval.txt").read_text() == "third\n"
    assert "third" not in (tmp_path / "log.txt").read_text()


def test_setup_logger_without_a_file(console, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    utils.setup_logger(None)
    logging.getLogger("dassl").info("told")
    assert console() == "told\n"
    assert list(tmp_path.iterdir()) == []


def test_write_json_is_plain_json(tmp_path):
    utils.write_json([1, "é"], tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == [1, "é"]

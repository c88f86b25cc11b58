"""Backbone files: formats, damage, what their weights do not determine, and hosts that need a ViT."""

import logging

import pytest
import torch
import toy
from dassl.engine import TRAINER_REGISTRY
from safetensors.torch import save_file

from scripts.faults.torchscript import Archived, Writing
from trainers.backbones import BackboneError, build_clip, load_clip
from trainers.cli import train
from trainers.cli.program import guarded
from trainers.config import ConfigError
from trainers.engine.precision import Precision
from trainers.method.teachers import load_teacher


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with toy pictures, a ViT (student.pt), its teacher and a ResNet."""
    root = tmp_path_factory.mktemp("clips")
    toy.draw(root / "toy")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    from clip.model import CLIP

    torch.manual_seed(1)
    torch.save(CLIP(32, 32, (1, 1, 1, 1), 8, None, 77, 49408, 64, 1, 3).state_dict(), root / "resnet.pt")
    return root


def weights(clips):
    """Return the toy student's state dict."""
    return torch.load(clips / "student.pt", weights_only=True)


def test_all_formats_load_the_same_model(clips, tmp_path):
    state = weights(clips)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pt")
    save_file(state, tmp_path / "plain.safetensors")
    torch.jit.save(torch.jit.script(Archived(state)), tmp_path / "archive.pt")
    expected = load_clip(str(clips / "student.pt"))
    for name in ("wrapped.pt", "plain.safetensors", "archive.pt"):
        model = load_clip(str(tmp_path / name))
        assert model.fingerprint == expected.fingerprint
        assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("route", ["student", "teacher", "open_clip"])
def test_archive_is_not_executed(tmp_path, route):
    victim, path = tmp_path / "victim", tmp_path / "archive.pt"
    victim.write_text("something precious")
    torch.jit.save(torch.jit.script(Writing(str(victim))), path)
    name = f"open_clip:ViT-B-32/{path}" if route == "open_clip" else str(path)
    if route == "open_clip":
        pytest.importorskip("open_clip")
    with pytest.raises(BackboneError, match=r"archive\.pt"):
        if route == "student":
            load_clip(name)
        else:
            load_teacher(name, ["cat"], "a {}.", Precision("fp32"))
    assert victim.read_text() == "something precious"


@pytest.mark.parametrize("key", ["MODEL.BACKBONE.NAME", "TRAINER.CASPL.TEACHER.BACKBONE"])
@pytest.mark.parametrize("damage", ["flipped", "page"])
def test_damaged_backbone_is_one_error_line(clips, tmp_path, capsys, key, damage):
    data = bytearray((clips / "student.pt").read_bytes())
    data[len(data) // 2] ^= 1 << 5  # most of the file is the token embedding
    path = tmp_path / "damaged.pt"
    path.write_bytes(data if damage == "flipped" else b"<html><body>Not found</body></html>\n")
    line = toy.command(clips, "CasPL", tmp_path / "run", **{key.replace(".", "__"): path})
    assert guarded(lambda: train.run(line)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(path) in error and "weights_only" not in error
    assert ("CRC" if damage == "flipped" else "not a zip archive") in error


def test_unrecorded_function_is_logged_once(clips, caplog):
    with caplog.at_level(logging.WARNING):
        load_clip(str(clips / "student.pt"))
    assert len(caplog.records) == 1
    assert "does not record its activation and head width: computing QuickGELU and heads of 64" in caplog.text


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_recorded_head_width_is_computed_without_warning(clips, tmp_path, caplog, ending):
    path, record = tmp_path / f"clip{ending}", {"activation": "QuickGELU", "head_width": 16}
    if ending == ".pt":
        torch.save({"state_dict": weights(clips), **record}, path)
    else:
        save_file(weights(clips), path, {key: str(value) for key, value in record.items()})
    with caplog.at_level(logging.WARNING):
        model = load_clip(str(path))
    assert not caplog.records
    heads = [
        block.attn.num_heads for tower in (model.transformer, model.visual.transformer) for block in tower.resblocks
    ]
    assert set(heads) == {4}
    tokens, image = torch.randint(1, 400, (2, 77)), torch.randn(2, 3, 16, 16)
    other = build_clip(weights(clips))
    assert not torch.allclose(model.encode_image(image), other.encode_image(image))
    assert not torch.allclose(model.encode_text(tokens), other.encode_text(tokens))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"activation": "relu"}, "activation 'relu'; expected one of .*quick_gelu"),
        ({"layer_norm_eps": -1e-6}, "layer_norm_eps -1e-06; expected a positive number"),
        ({"head_width": 0}, "head_width 0.0; expected a whole number"),
        ({"head_width": "many"}, "head_width 'many'; expected a number"),
        ({"head_width": float("nan")}, "head_width nan; expected a number"),
        ({"head_width": 48}, "heads of 48 channels do not divide a tower's width of 64"),
    ],
)
def test_function_that_the_engine_does_not_compute_is_rejected(clips, tmp_path, record, message):
    torch.save({"state_dict": weights(clips), **record}, tmp_path / "clip.pt")
    with pytest.raises(BackboneError, match=message):
        load_clip(str(tmp_path / "clip.pt"))


class Gelu(Archived):
    """The archive of a CLIP whose code calls GELU."""

    def forward(self, x: torch.Tensor):
        return torch.nn.functional.gelu(x)


def test_archive_with_gelu_is_computed(clips, tmp_path):
    torch.jit.save(torch.jit.script(Gelu(weights(clips))), tmp_path / "gelu.pt")
    model = load_clip(str(tmp_path / "gelu.pt"))
    activations = [b.mlp.gelu for tower in (model.transformer, model.visual.transformer) for b in tower.resblocks]
    assert {type(layer) for layer in activations} == {torch.nn.GELU}
    assert model.described["text"]["activation"] == "gelu"


RESNET = {"MODEL__BACKBONE__NAME": "resnet.pt", "INPUT__SIZE": "(32, 32)"}


def resnet_line(clips, trainer, folder, **more):
    """Return the arguments that run a trainer on the ResNet."""
    return toy.command(clips, trainer, folder, **RESNET | {"MODEL__BACKBONE__NAME": clips / "resnet.pt"} | more)


@pytest.mark.parametrize("trainer", ["MaPLe", "PromptSRC", "CasPL"])
def test_resnet_with_vision_prompts_is_one_error_line(clips, tmp_path, capsys, trainer):
    assert guarded(lambda: train.run(resnet_line(clips, trainer, tmp_path / "run"))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "resnet.pt" in error and "ViT" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trainer", ["CoOp", "CoCoOp", "ZeroshotCLIP"])
def test_resnet_without_vision_prompts_runs(clips, tmp_path, trainer):
    assert train.run(resnet_line(clips, trainer, tmp_path / "run"))["accuracy"] >= 0


def test_resnet_with_text_only_boosting_prompt_runs_in_both_phases(clips, tmp_path, capsys):
    text = {"TRAINER__CASPL__DEPTH_VISION": 0}
    train.run(resnet_line(clips, "CasPL", tmp_path / "boost", **text))
    more = {"TRAINER__CASPL__CHECKPOINT": tmp_path / "boost"}
    train.run(resnet_line(clips, "CasPL_CoOp", tmp_path / "run", **more))
    vit = {"TRAINER__CASPL__CHECKPOINT": tmp_path / "both"}
    train.run(toy.command(clips, "CasPL", tmp_path / "both"))
    capsys.readouterr()
    assert guarded(lambda: train.run(resnet_line(clips, "CasPL_CoOp", tmp_path / "wrong", **vit))) == 2
    assert "expected a ViT" in capsys.readouterr().err


def test_depth_beyond_the_backbone_is_named_with_all_other_keys(clips, tmp_path):
    more = {
        "TRAINER__PROMPTSRC__PROMPT_DEPTH_VISION": 9,
        "TRAINER__PROMPTSRC__PROMPT_DEPTH_TEXT": 4,
        "INPUT__SIZE": "(8, 8)",
    }
    with pytest.raises(ConfigError) as caught:
        train.run(toy.command(clips, "PromptSRC", tmp_path / "run", **more))
    for key in ("PROMPT_DEPTH_VISION", "PROMPT_DEPTH_TEXT", "INPUT.SIZE"):
        assert key in str(caught.value)
    assert not (tmp_path / "run").exists()
    more = {"TRAINER__PROMPTSRC__PROMPT_DEPTH_VISION": 3}
    train.run(toy.command(clips, "PromptSRC", tmp_path / "run", **more))


def test_every_host_limits_its_depths():
    for name in TRAINER_REGISTRY.registered_names():
        for field in getattr(TRAINER_REGISTRY.get(name), "fields", ()):
            if "DEPTH" in field.name:
                assert field.limits, f"{name}.{field.name}"

"""Hosts that compute their text features while they are built, and hosts under their own `--trainer` name."""

import logging

import pytest
import torch
import toy
import yaml
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import nn
from torch.nn import functional as F

import trainers
from trainers.backbones import load_clip, tokenizer
from trainers.cli import train
from trainers.config import ConfigError
from trainers.engine import Learner, PromptedCLIP, worded_texts
from trainers.method.prompt_file import (
    FILE_NAME,
    BoostingInfo,
    CheckpointError,
    PromptGroup,
    load_boosting,
    save_boosting,
)
from trainers.plugin.structure import HostError

WORDS = "a photo of a {}."


def token_ids(names):
    """Token ids (C, 77) of a template around class names."""
    rows = [[toy.SOS, *tokenizer().encode(WORDS.format(name.replace("_", " "))), toy.EOT] for name in names]
    return torch.tensor([row + [0] * (77 - len(row)) for row in rows])


class Residuals(nn.Module):
    """Learns residuals of text features that were computed before (TaskRes)."""

    def __init__(self, clip_model, names):
        super().__init__()
        self.image_encoder = clip_model.visual
        with torch.no_grad():
            self.register_buffer("texts", clip_model.encode_text(token_ids(names)))
        self.residuals = nn.Parameter(torch.randn_like(self.texts) * 0.01)

    def forward(self, images):
        image, text = self.image_encoder(images), self.texts + self.residuals
        return 100 * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).t()


@TRAINER_REGISTRY.register()
class Frozen(TrainerX):
    """Computes its text features in `build_model`; reads its own name wherever it can."""

    clips = 1

    def build_data_loader(self):
        assert self.cfg.TRAINER.NAME == type(self).__mro__[0].__name__.removeprefix("CasPL_")
        super().build_data_loader()

    def build_model(self):
        assert not self.cfg.TRAINER.NAME.startswith("CasPL")
        names = self.dm.dataset.classnames
        loaded = [load_clip(self.cfg.MODEL.BACKBONE.NAME) for _ in range(self.clips)]
        self.model = Residuals(loaded[0], names).requires_grad_(False)
        for other in loaded[1:]:
            other.encode_text(token_ids(names))
        self.model.residuals.requires_grad_(True)
        self.optim = build_optimizer([self.model.residuals], self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("residuals", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        loss = F.cross_entropy(self.model(batch["img"]), batch["label"])
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}


@TRAINER_REGISTRY.register()
class TwiceFrozen(Frozen):
    """Two CLIPs compute text features."""

    clips = 2


@TRAINER_REGISTRY.register()
class ZeroshotFrozen(Frozen):
    """A zero-shot trainer."""


trainers.wrap("Frozen")


@pytest.fixture
def place(tmp_path):
    toy.save_clip(tmp_path / "student.pt")
    torch.manual_seed(0)
    save(tmp_path / FILE_NAME)
    return tmp_path


def save(file, text=(2, 3, 64), **known):
    """Write a boosting prompt."""
    save_boosting(file, PromptGroup.random(text, (3, 2, 64), 0.3), BoostingInfo(**known))


def build(place, name, checkpoint=None):
    """Build a trainer as train.py does."""
    options = {"TRAINER__CASPL__CHECKPOINT": checkpoint or place}
    args = train.parse(toy.command(place, name, place / "run", **options))
    cfg = train.setup_cfg(args)
    torch.manual_seed(5)
    return trainers.plugin.cascade.TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)


def test_text_features_get_the_tokens_in_a_second_build(place, caplog):
    with caplog.at_level(logging.INFO):
        trainer = build(place, "CasPL_Frozen")
    assert "Frozen computes its text features while it is built: building it again" in caplog.text
    clip_model = load_clip(str(place / "student.pt"))
    names = trainer.dm.dataset.classnames
    native = PromptedCLIP(clip_model, Learner(), worded_texts(tokenizer().encode, names, WORDS))
    native.cascade(load_boosting(place / FILE_NAME)[0])
    found = F.normalize(trainer.model.texts, dim=-1)
    torch.testing.assert_close(found, native.class_features(), atol=1e-5, rtol=0)
    images = torch.randn(2, 3, 16, 16)
    image = F.normalize(trainer.model.image_encoder(images), dim=-1)
    torch.testing.assert_close(image, native.image_features(images), atol=1e-5, rtol=0)


def test_second_build_starts_from_the_same_random_state(place):
    torch.manual_seed(5)
    args = train.parse(toy.command(place, "Frozen", place / "run"))
    cfg = train.setup_cfg(args)
    torch.manual_seed(5)
    alone = TRAINER_REGISTRY.get("Frozen")(cfg)
    assert torch.equal(build(place, "CasPL_Frozen").model.residuals, alone.model.residuals)


def test_two_clips_that_compute_texts_are_rejected(place):
    with pytest.raises(
        HostError, match="2 of the 2 CLIPs that it loads computed text features; expected 1.*DEPTH_TEXT 0"
    ):
        build(place, "TwiceFrozen")


def test_prompt_for_another_backbone_is_rejected(place):
    save(place / "other.safetensors", student_weights="ab")
    with pytest.raises(CheckpointError, match="student weights ab .*expected"):
        build(place, "CasPL_Frozen", place / "other.safetensors")
    save(place / "deeper.safetensors", vision_layers=12)
    with pytest.raises(CheckpointError, match="vision layers 12"):
        build(place, "CasPL_Frozen", place / "deeper.safetensors")


def test_host_cascades_under_its_own_name(place):
    """The checkpoint is enough; the run keeps the name CasPL_<Host>."""
    run = place / "run"
    train.run(toy.command(place, "Frozen", run, TRAINER__CASPL__CHECKPOINT=place))
    assert yaml.safe_load((run / "config.yaml").read_text())["TRAINER"]["NAME"] == "CasPL_Frozen"
    assert "Cascaded with" in (run / "log.txt").read_text()
    assert (run / FILE_NAME).is_file()


def test_dassl_builds_the_cascade_under_the_hosts_own_name(place):
    """In a toolbox, where nothing but Dassl's registry is asked."""
    cfg = train.setup_cfg(train.parse(toy.command(place, "Frozen", place / "run")))
    cfg.defrost()
    cfg.TRAINER.CASPL.CHECKPOINT = str(place)
    for name, cascaded in (("Frozen", True), ("ZeroshotFrozen", False)):
        cfg.TRAINER.NAME = name
        trainer = TRAINER_REGISTRY.get(name)(cfg)
        assert isinstance(trainer, TRAINER_REGISTRY.get(name))
        assert hasattr(trainer, "injection") == cascaded
        assert trainer.cfg.TRAINER.NAME == name


@pytest.mark.parametrize("host", ["CoOp", "MaPLe"])
def test_own_hosts_cascade_under_their_own_names(place, host):
    trainer = build(place, f"CasPL_{host}")
    args = [
        item if item != f"CasPL_{host}" else host
        for item in toy.command(place, f"CasPL_{host}", place / "run", TRAINER__CASPL__CHECKPOINT=place)
    ]
    cfg = train.setup_cfg(train.parse(args))
    assert cfg.TRAINER.NAME == f"CasPL_{host}"
    assert trainer.cfg.TRAINER.NAME == host and trainer.model.boosting is not None


def test_cascaded_run_is_not_evaluated_alone(place):
    """Where a toolbox's command does not repeat the checkpoint."""
    cfg = train.setup_cfg(train.parse(toy.command(place, "Frozen", place / "run")))
    trainer = TRAINER_REGISTRY.get("Frozen")(cfg)
    with pytest.raises(ConfigError, match="was trained with the boosting prompt .*Set TRAINER.CASPL.CHECKPOINT"):
        trainer.load_model(str(place), epoch=1)

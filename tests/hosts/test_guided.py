"""KgCoOp and TCP: runs alone and cascaded, what is learned, and other classes at evaluation."""

import pytest
import torch
import toy
from dassl.engine import build_trainer

from trainers.cli import train
from trainers.cli.program import guarded
from trainers.method import prompt_file

KEYS = {
    "KgCoOp": {"TRAINER__KGCOOP__PREC": "fp32"},
    "TCP": {"TRAINER__TCP__PREC": "fp32", "TRAINER__TCP__LAYER": 2, "OPTIM__NAME": "adam"},
}
LEARNED = {
    "KgCoOp": {"ctx": (4, 64)},
    "TCP": {
        "ctx": (4, 64),
        "meta_net.linear1.weight": (8, 32),
        "meta_net.linear1.bias": (8,),
        "meta_net.linear2.weight": (256, 8),
        "meta_net.linear2.bias": (256,),
    },
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Toy pictures and CLIPs, and a boosting prompt."""
    root = tmp_path_factory.mktemp("guided")
    toy.draw(root / "toy")
    toy.save_clip(root / "student.pt")
    group = prompt_file.PromptGroup(torch.randn(2, 3, 64) * 0.02, torch.randn(2, 3, 64) * 0.02)
    prompt_file.save_boosting(root / prompt_file.FILE_NAME, group, prompt_file.BoostingInfo())
    return root


def line(root, trainer, folder, *flags, **more):
    """Return the arguments that run a trainer on the toys."""
    host = trainer.removeprefix("CasPL_")
    if trainer != host:
        more |= {"TRAINER__CASPL__CHECKPOINT": root}
    return toy.command(root, trainer, folder, *flags, **KEYS[host] | more)


def build(arguments):
    """Return a trainer, built and not run."""
    return build_trainer(train.setup_cfg(train.parse(arguments)))


@pytest.mark.parametrize("host", KEYS)
@pytest.mark.parametrize("cascaded", [False, True])
def test_run_evaluates_to_its_figure_and_on_new_classes(root, tmp_path, host, cascaded):
    trainer, base = f"CasPL_{host}" if cascaded else host, {"DATASET__SUBSAMPLE_CLASSES": "base"}
    trained = train.run(line(root, trainer, tmp_path, **base))
    assert trained == train.run(["--eval-only", "--model-dir", str(tmp_path)])
    new = train.run(["--eval-only", "--model-dir", str(tmp_path), "DATASET.SUBSAMPLE_CLASSES", "new"])
    assert 0 <= new["accuracy"] <= 100
    state = torch.load(tmp_path / "prompt_learner" / "model.pth.tar-1", weights_only=True)["state_dict"]
    assert {key: tuple(value.shape) for key, value in state.items()} == LEARNED[host]


@pytest.mark.parametrize("host", KEYS)
def test_class_features_are_pulled_to_zero_shot_vectors(root, tmp_path, host):
    trainer = build(line(root, host, tmp_path))
    model, batch = trainer.model, next(iter(trainer.train_loader_x))
    model.prompt_learner.ctx.data += 0.05 * torch.randn(4, 64)  # KgCoOp starts at the zero-shot template's words
    terms, _ = model.loss_terms(batch["img"], batch["label"])
    similarity = torch.cosine_similarity(model.class_features(), model.zero_shot)
    assert terms["kg"].item() == pytest.approx(8 * (1 - similarity.mean().item()), rel=1e-4)
    optimiser = torch.optim.SGD(model.prompt_learner.parameters(), 0.01)
    first = terms["kg"].item()
    for _ in range(10):
        terms["kg"].backward()
        optimiser.step()
        optimiser.zero_grad()
        terms, _ = model.loss_terms(batch["img"], batch["label"])
    assert terms["kg"].item() < first


def test_tcp_trains_with_the_published_epsilon(root, tmp_path):
    assert {group["eps"] for group in build(line(root, "TCP", tmp_path)).optim.param_groups} == {1e-3}


@pytest.mark.parametrize("layer", [0, 3, 2**40, -1])
def test_tcp_layer_outside_the_text_tower_is_one_error_line(root, tmp_path, capsys, layer):
    assert guarded(lambda: train.run(line(root, "TCP", tmp_path / "run", TRAINER__TCP__LAYER=layer))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"TRAINER.TCP.LAYER: {layer}; expected " in error

"""Train one step and evaluate one batch of every dataset on the toy CLIP."""

import pytest
import torch
import toy
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from datasets_helpers import golden_folder, kind_of
from PIL import Image
from test_datasets import CONFIGS, FAMILY

from datasets.shapes.dataset import RenderedDataset
from trainers.cli import train

RENDERED = sorted(
    name for name in ("Shapes", *(f"Shapes{part}" for part in "Colours Forms Misnamed V2 Sketch A R".split()))
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The mini datasets, own images in folders and a CSV, and the student's weights."""
    root = golden_folder(tmp_path_factory.mktemp("data"))
    toy.save_clip(root / "student.pt")
    rows = [f"own/{label}/{number}.png" for label in ("cat", "dog") for number in range(6)]
    for number, row in enumerate(rows):
        (root / row).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (20 * number, 99, 0)).save(root / row)
    lines = [f"{row.removeprefix('own/')},{row.split('/')[1]}" for row in rows]
    (root / "own/images.csv").write_text("\n".join(["path,classname", *lines]))
    return root


def test_all_configured_datasets_are_tested():
    own = ["ImageFolder", "ImageCSV", "UnlabelledFolder"]  # the last one is phase 1's: method/test_unlabelled.py
    assert len([*FAMILY, *RENDERED, *own]) == len(list(CONFIGS.glob("*.yaml")))


@pytest.mark.parametrize("name", [*FAMILY, *RENDERED, "ImageFolder", "ImageCSV"])
def test_training_step(name, data, tmp_path, monkeypatch):
    kind = kind_of(name)
    if issubclass(kind, RenderedDataset):
        monkeypatch.setattr(kind, "sizes", dict.fromkeys(kind.sizes, 1))
    root = data / "own" if name.startswith("Image") and not kind.dataset_dir else data
    more = {
        "DATASET__NAME": name,
        "DATASET__NUM_SHOTS": 2,
        "MODEL__BACKBONE__NAME": data / "student.pt",
        "DATALOADER__TRAIN_X__BATCH_SIZE": 2,
    }
    cfg = train.setup_cfg(train.parse(toy.command(root, "CoOp", tmp_path, **more)))
    set_random_seed(cfg.SEED)
    trainer = build_trainer(cfg)
    learner = trainer.get_model_names()[0]
    parameters = list(trainer._models[learner].parameters())
    before = [parameter.detach().clone() for parameter in parameters if parameter.requires_grad]
    trainer.set_model_mode("train")
    trainer.batch_idx, trainer.num_batches = 0, 2
    batch = next(iter(trainer.train_loader_x))
    assert batch["img"].shape == (2, 3, 16, 16)
    figures = trainer.forward_backward(batch)
    assert 0 < figures["loss"] < 50
    after = [parameter for parameter in parameters if parameter.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True)), "nothing was learned"
    trainer.set_model_mode("eval")
    with torch.no_grad():
        logits = trainer.model_inference(next(iter(trainer.test_loader))["img"])
    assert logits.shape[1] == len(trainer.dm.dataset.classnames) and torch.isfinite(logits).all()

"""The toolbox's own reader of OxfordPets, of the published split file."""

import json
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum


@DATASET_REGISTRY.register()
class OxfordPets(DatasetBase):
    """Base, new or all classes of the split, with a few images per class for training."""

    def __init__(self, cfg):
        folder = Path(cfg.DATASET.ROOT) / "oxford_pets"
        parts = json.loads((folder / "split_zhou_OxfordPets.json").read_text())
        labels = sorted({label for items in parts.values() for _, label, _ in items})
        half = (len(labels) + 1) // 2
        kept = {"all": labels, "base": labels[:half], "new": labels[half:]}[cfg.DATASET.SUBSAMPLE_CLASSES]
        train, val, test = (
            [
                Datum(impath=str(folder / "images" / path), label=kept.index(label), classname=name)
                for path, label, name in parts[part]
                if label in kept
            ]
            for part in ("train", "val", "test")
        )
        train = self.generate_fewshot_dataset(train, num_shots=cfg.DATASET.NUM_SHOTS)
        super().__init__(train_x=train, val=val, test=test)

"""The substitute's datasets, samplers, transforms and loaders.

golden/toolbox/dassl_draws.json has transformed pixels and the random generators' next values, recorded from
Dassl 0.6.3; few_shot_picks.json has its few-shot draws.
"""

import json
import pickle
import random
from pathlib import Path

import dassl
import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset
from dassl.data.samplers import build_sampler
from dassl.data.transforms import AVAI_CHOICES, INTERPOLATION_MODES, build_transform
from dassl.utils import set_random_seed
from PIL import Image
from torchvision.transforms import InterpolationMode

if not dassl.__version__.endswith("+standin"):
    pytest.skip("the real Dassl is installed: the substitute is not in use", allow_module_level=True)

GOLDEN = Path(__file__).parents[1] / "golden" / "toolbox"
DRAWS = json.loads((GOLDEN / "dassl_draws.json").read_text())
PICKS = json.loads((GOLDEN / "few_shot_picks.json").read_text())


def write_pictures(folder, number, classes):
    """Write `number` images and return them as `Datum`, labels 0, 1, ... in turn; a label's images look alike."""
    rng = np.random.RandomState(0)
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for i in range(number):
        path, label = folder / f"{i:03}.png", i % classes
        colour = np.array([label * 255 // classes, 128, 255 - label * 255 // classes])
        pixels = (colour + rng.randint(-40, 40, (12, 10, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        items.append(Datum(str(path), label=label, domain=i % 2, classname=f"class_{label}"))
    return items


@DATASET_REGISTRY.register()
class DasslTestPictures(DatasetBase):
    """Written to `cfg.DATASET.ROOT`; NUM_SHOTS, if positive, is the number of training images."""

    def __init__(self, cfg):
        items = write_pictures(Path(cfg.DATASET.ROOT), 30, 3)
        train = items[: cfg.DATASET.NUM_SHOTS] if cfg.DATASET.NUM_SHOTS > 0 else items[:20]
        super().__init__(train_x=train, train_u=items[:13], val=items[20:25], test=items[20:])


def pictures_cfg(tmp_path, **dataloader):
    cfg = get_cfg_default()
    cfg.DATASET.NAME, cfg.DATASET.ROOT = "DasslTestPictures", str(tmp_path / "pictures")
    cfg.INPUT.SIZE = (8, 8)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.TEST.BATCH_SIZE = 6, 4
    cfg.DATALOADER.merge_from_list([item for pair in dataloader.items() for item in pair])
    return cfg


# Data sets


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """{split name: {"train": [Datum], "val": [Datum]}}, whose draws are in few_shot_picks.json."""
    root = tmp_path_factory.mktemp("splits")
    out = {}
    for name, parts in PICKS["splits"].items():
        out[name] = {}
        for part in ("train", "val"):
            for path, _, _ in parts[part]:
                (root / path).parent.mkdir(exist_ok=True)
                (root / path).touch()
            out[name][part] = [Datum(str(root / path), label, 0, cls) for path, label, cls in parts[part]]
    out["root"] = root
    return out


def test_few_shot_draws_match_dassl(splits):
    """Draws over all classes: seed, then train, then val, as the family's datasets call it."""
    cases = [case for case in PICKS["cases"] if case["subsample"] == "all"]
    assert {case["shots"] for case in cases} >= {1, 2, 4, 8, 16}
    for case in cases:
        data = DatasetBase(train_x=splits[case["split"]]["train"])
        set_random_seed(case["seed"])
        train = data.generate_fewshot_dataset(splits[case["split"]]["train"], num_shots=case["shots"])
        val = data.generate_fewshot_dataset(splits[case["split"]]["val"], num_shots=min(case["shots"], 4))
        for drawn, expected in ((train, case["train_x"]), (val, case["val"])):
            got = [[str(Path(d.impath).relative_to(splits["root"])), d.label, d.classname] for d in drawn]
            assert got == expected, (case["split"], case["shots"], case["seed"])
        assert data.classnames == case["classnames"] and data.num_classes == case["num_classes"]


def test_few_shot_forms(tmp_path):
    items = write_pictures(tmp_path, 7, 3)
    data = DatasetBase(train_x=items)
    assert data.generate_fewshot_dataset(items, num_shots=0) is items
    assert data.generate_fewshot_dataset(items, items) == (items, items)
    one, two = data.generate_fewshot_dataset(items, items[:3], num_shots=1)
    assert sorted(d.label for d in one) == sorted(d.label for d in two) == [0, 1, 2]
    few = data.generate_fewshot_dataset(items, num_shots=5)
    assert sorted(d.impath for d in few) == sorted(d.impath for d in items)
    filled = data.generate_fewshot_dataset(items, num_shots=5, repeat=True)
    assert [d.label for d in filled] == [0] * 5 + [1] * 5 + [2] * 5


def test_dataset_base(tmp_path, caplog):
    items = write_pictures(tmp_path, 6, 3)
    data = DatasetBase(train_x=items[::-1], val=items[:1], test=items[1:])
    assert data.num_classes == 3 and data.train_u is None
    assert list(data.lab2cname.items()) == [(0, "class_0"), (1, "class_1"), (2, "class_2")]
    assert data.classnames == ["class_0", "class_1", "class_2"]
    assert {k: len(v) for k, v in data.split_dataset_by_label(items).items()} == {0: 2, 1: 2, 2: 2}
    names, _ = DatasetBase.get_lab2cname([*items, Datum(items[0].impath, 1, 0, "other")])
    assert names[1] == "class_1" and 'Label 1 is called "class_1" and "other"' in caplog.text
    with pytest.raises(ValueError, match="DatasetBase has no training images"):
        DatasetBase(train_x=[], test=items)


def test_datum(tmp_path):
    item = write_pictures(tmp_path, 1, 1)[0]
    again = pickle.loads(pickle.dumps(item))
    assert vars(again) == vars(item)
    # the family's few-shot files depend on these names
    assert sorted(vars(item)) == ["_classname", "_domain", "_impath", "_label"]
    assert Datum.__module__ == "dassl.data.datasets.base_dataset"
    with pytest.raises(FileNotFoundError, match="no.png.*DATASET.ROOT"):
        Datum(str(tmp_path / "no.png"))
    with pytest.raises(TypeError, match="expected a string"):
        Datum(tmp_path)


def test_unknown_dataset(tmp_path):
    cfg = pictures_cfg(tmp_path)
    cfg.DATASET.NAME = "DasslTestPicture"
    with pytest.raises(ValueError, match='did you mean "DasslTestPictures"'):
        build_dataset(cfg)


# Samplers


def test_random_sampler_follows_torchs_seed():
    orders = []
    for _ in range(2):
        torch.manual_seed(1)
        orders.append(list(build_sampler("RandomSampler", data_source=list(range(20)))))
    assert orders[0] == orders[1] != sorted(orders[0])
    assert sorted(orders[0]) == list(range(20))


# Transforms


def gradient():
    y, x = np.mgrid[0:40, 0:52]
    return Image.fromarray(np.stack([4 * x + y, x * y // 8, 255 - 5 * y], -1).astype(np.uint8))


@pytest.mark.parametrize("case", DRAWS["transforms"], ids=lambda c: f"{'+'.join(c['choices'])}-{c['train']}")
def test_transforms_match_dassl(case):
    cfg = get_cfg_default()
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = tuple(case["size"]), "bicubic"
    cfg.INPUT.CROP_PADDING = 16
    transform = build_transform(cfg, is_train=case["train"], choices=case["choices"])
    set_random_seed(7)
    for expected in case["strided"]:
        image = transform(gradient())
        assert image.shape == (3, *case["size"])
        got = image.flatten()[:: image.numel() // 12]
        torch.testing.assert_close(got, torch.tensor(expected), atol=0.02, rtol=0)
    after = [random.random(), np.random.rand(), torch.rand(1).item()]
    assert after == case["after"]


@pytest.mark.parametrize("choice", AVAI_CHOICES)
def test_every_choice_works(choice):
    cfg = get_cfg_default()
    cfg.INPUT.SIZE = (24, 24)
    image = build_transform(cfg, is_train=True, choices=[choice])(gradient())
    assert image.shape == (3, 24, 24) and image.isfinite().all()


def test_interpolations(caplog):
    assert INTERPOLATION_MODES["bicubic"] is InterpolationMode.BICUBIC
    cfg = get_cfg_default()
    cfg.INPUT.INTERPOLATION = "cubic"
    with pytest.raises(ValueError, match='did you mean "bicubic"'):
        build_transform(cfg)
    cfg.INPUT.NO_TRANSFORM = True
    assert build_transform(cfg) is None


def test_dataset_wrapper(tmp_path):
    cfg = pictures_cfg(tmp_path)
    items = write_pictures(tmp_path, 2, 2)
    item = DatasetWrapper(cfg, items, transform=build_transform(cfg, is_train=False))[1]
    assert item["img"].shape == (3, 8, 8) and item["index"] == 1
    assert DatasetWrapper(cfg, items)[0]["img"].size == (10, 12)


def test_transform_errors():
    cfg = get_cfg_default()
    with pytest.raises(NotImplementedError, match='"randaugment" needs the real Dassl'):
        build_transform(cfg, choices=["randaugment"])
    with pytest.raises(ValueError, match='did you mean "random_flip"'):
        build_transform(cfg, choices=["random_flips"])


# Loaders


def test_data_manager(tmp_path, caplog):
    caplog.set_level("INFO")
    dm = DataManager(pictures_cfg(tmp_path))
    loaders = (dm.train_loader_x, dm.val_loader, dm.test_loader)
    assert [len(loader) for loader in loaders] == [3, 2, 3]  # only training drops an incomplete batch
    assert (dm.num_classes, dm.num_source_domains, dm.lab2cname[2]) == (3, 0, "class_2")
    batch = next(iter(dm.train_loader_x))
    assert batch["img"].shape == (6, 3, 8, 8) and sorted(batch) == [
        "domain",
        "img",
        "impath",
        "index",
        "label",
    ]
    items = [dm.dataset.train_x[i] for i in batch["index"]]
    assert [d.impath for d in items] == batch["impath"]
    assert [d.label for d in items] == batch["label"].tolist()
    assert [d.domain for d in items] == batch["domain"].tolist()
    seen = [path for batch in dm.test_loader for path in batch["impath"]]
    assert seen == [d.impath for d in dm.dataset.test]
    assert "# train_x  20" in caplog.text and "DasslTestPictures" in caplog.text


def test_small_training_set_is_one_batch(tmp_path):
    cfg = pictures_cfg(tmp_path)
    cfg.DATASET.NUM_SHOTS = 4
    batches = list(DataManager(cfg).train_loader_x)
    assert [len(batch["label"]) for batch in batches] == [4]


def test_custom_transform_and_wrapper(tmp_path):
    class Marked(DatasetWrapper):
        def __getitem__(self, idx):
            return {**super().__getitem__(idx), "mark": idx}

    def tfm(image):
        return torch.zeros(1)

    dm = DataManager(pictures_cfg(tmp_path), custom_tfm_train=tfm, custom_tfm_test=tfm, dataset_wrapper=Marked)
    for loader in (dm.train_loader_x, dm.test_loader):
        batch = next(iter(loader))
        assert batch["img"].shape[1:] == (1,) and batch["mark"].tolist() == batch["index"].tolist()


def test_loader_errors(tmp_path):
    cfg = pictures_cfg(tmp_path)
    items = write_pictures(tmp_path, 9, 3)
    for nothing in ([], None):
        with pytest.raises(ValueError, match="DasslTestPictures: no images to build the training loader from"):
            build_data_loader(cfg, data_source=nothing)
    with pytest.raises(ValueError, match='did you mean "RandomSampler"'):
        build_data_loader(cfg, "RandomSample", items)

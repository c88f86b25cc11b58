"""The teacher's features are computed once: what a cache saves, what it never changes, and whose it is."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import children
import numpy as np
import protocol
import pytest
import torch
import toy
from safetensors.torch import load_file

from trainers.cli import train
from trainers.cli.program import guarded
from trainers.method.boosting import CasPL
from trainers.method.teacher_cache import CacheError, TeacherCache, described_images
from trainers.method.teachers.stock import StockTeacher
from trainers.training.dataset import ImageDataset

WHAT = {"teacher": "a"}
BATCH = torch.tensor([2, 0, 3])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures and CLIPs."""
    root = tmp_path_factory.mktemp("cache")
    protocol.prepare(root)
    return root


def line(root, folder, cache="", **more):
    """Phase 1 on the toys: three epochs, two views."""
    more = {"OPTIM__MAX_EPOCH": 3, "TRAINER__CASPL__TEACHER__VIEWS": 2, **more}
    return toy.command(root, "CasPL", folder, TRAINER__CASPL__TEACHER__CACHE=cache, **more)


def boosted(*args, **more):
    """Run it; the boosting prompt."""
    train.run(line(*args, **more))
    return load_file(args[1] / "boosting.safetensors")


def same(ours, theirs):
    """Whether two prompts have the same bits."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture
def towers(monkeypatch):
    """The batches that a teacher's image tower saw (an empty one to learn E left out)."""
    seen, compute = [], StockTeacher.image_features

    def counting(teacher, image):
        if image.any():
            seen.append(image)
        return compute(teacher, image)

    monkeypatch.setattr(StockTeacher, "image_features", counting)
    return seen


def test_cached_epochs_and_runs_skip_teacher_and_give_same_bits(root, tmp_path, towers):
    plain = boosted(root, tmp_path / "plain")
    assert len(towers) == 3 * 6
    towers.clear()
    first = boosted(root, tmp_path / "first", tmp_path / "cache")
    assert len(towers) == 2 * 6  # the third epoch shows the first view
    towers.clear()
    assert same(first, boosted(root, tmp_path / "second", tmp_path / "cache"))
    boosted(root, tmp_path / "longer", tmp_path / "cache", TRAINER__CASPL__N_CTX_VISION=3, OPTIM__MAX_EPOCH=4)
    assert not towers and len(list((tmp_path / "cache").glob("*.features"))) == 1
    assert all(torch.allclose(first[key], plain[key], atol=2e-3) for key in plain)
    assert not same(first, plain)  # rounded features: it is the cache that they come from


def test_views_equal_to_epochs_match_default(root, tmp_path):
    recipe = boosted(root, tmp_path / "recipe", TRAINER__CASPL__TEACHER__VIEWS=0)
    assert same(recipe, boosted(root, tmp_path / "views", TRAINER__CASPL__TEACHER__VIEWS=3))
    assert not same(recipe, boosted(root, tmp_path / "fewer", TRAINER__CASPL__TEACHER__VIEWS=1))


@pytest.mark.parametrize("views, expected", [(0, [0, 1, 2, 3, 4]), (2, [0, 1, 0, 1, 0]), (9, [0, 1, 2, 3, 4])])
def test_view_is_epoch_modulo_views(views, expected):
    dataset = ImageDataset.__new__(ImageDataset)
    dataset.views, seen = views, []
    for dataset.epoch in range(5):
        seen.append(dataset.view)
    assert seen == expected


def key_of(root, tmp_path, **more):
    """The key of the cache of a run."""
    cfg = train.setup_cfg(train.parse(line(root, tmp_path / "run", tmp_path / "cache", **more)))
    return CasPL(cfg).open_caches()[0].key


def test_cache_key_depends_on_teacher_images_and_settings(root, tmp_path):
    other = toy.save_clip(tmp_path / "other.pt", toy.TEACHER, seed=4)
    state = torch.load(other, weights_only=True)
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"  # no projection
    state[name][0, 0] += 0.5
    torch.save(state, other)
    keys = [key_of(root, tmp_path)]
    for more in (
        {"TRAINER__CASPL__TEACHER__BACKBONE": other},
        {"SEED": 2},
        {"TRAINER__CASPL__TEACHER__VIEWS": 1},
        {"INPUT__TRANSFORMS": "('normalize',)"},
        {"INPUT__INTERPOLATION": "bicubic"},
        {"TRAINER__CASPL__CLASSES": "base"},
    ):
        keys.append(key_of(root, tmp_path, **more))
    same_key = key_of(
        root, tmp_path, TRAINER__CASPL__DEPTH_TEXT=1, TRAINER__CASPL__TEACHER__TEMPLATE="a {}", OPTIM__LR=1
    )
    assert same_key == keys[0]
    picture = root / "toy" / "train_0_0.png"
    status = picture.stat()
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    keys.append(key_of(root, tmp_path))
    assert len(set(keys)) == len(keys)
    described = json.loads(next((tmp_path / "cache").glob("*.json")).read_text())
    assert described["dataset"] == "Toy" and described["images"] and described["teacher_weights"]


def test_image_list_digest_depends_on_order_and_size_not_root(tmp_path):
    lists = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / name for name in "xy"]
        for path in paths:
            path.write_text("12")
            os.utime(path, ns=(1, 1))
        lists.append(paths)
    described = described_images(lists[0], str(tmp_path / "a"))
    assert described == described_images(lists[1], str(tmp_path / "b"))
    assert described != described_images(lists[0][::-1], str(tmp_path / "a"))
    lists[0][0].write_text("123")
    os.utime(lists[0][0], ns=(1, 1))
    assert described != described_images(lists[0], str(tmp_path / "a"))
    with pytest.raises(CacheError, match="gone.*DATASET.ROOT"):
        described_images([tmp_path / "gone"], str(tmp_path))


def small(folder, **what):
    """A cache of 4 images, 2 views, 5 numbers."""
    return TeacherCache(folder, WHAT | what, 4, 2, 5)


def refused():
    """Features that must not be computed."""
    raise AssertionError("the teacher was asked")


def test_read_returns_written_features_in_float16(tmp_path):
    features = torch.randn(3, 5)
    assert torch.equal(small(tmp_path).features(BATCH, 1, lambda: features), features.half().float())
    assert torch.equal(small(tmp_path).features(BATCH.flip(0), 1, refused), features.half().float().flip(0))
    for index, view in ((BATCH, 0), (torch.tensor([1]), 1)):
        with pytest.raises(AssertionError):
            small(tmp_path).features(index, view, refused)


def test_first_written_value_is_final(tmp_path):
    ours, theirs, features = small(tmp_path), small(tmp_path), torch.randn(3, 5)

    def slowly():
        theirs.features(BATCH[:1], 0, lambda: features[:1])  # another run is faster for one image
        return features + 1

    got = ours.features(BATCH, 0, slowly)
    assert torch.equal(got, torch.cat([features[:1], features[1:] + 1]).half().float())
    assert torch.equal(theirs.features(BATCH, 0, refused), got)


@pytest.mark.parametrize("field", ["mark", "features"])
def test_partially_written_row_is_rewritten(tmp_path, field):
    cache, features = small(tmp_path), torch.randn(3, 5)
    cache.features(BATCH, 0, lambda: features)
    cache.rows[field][2, 0] = 0
    assert torch.equal(small(tmp_path).features(BATCH, 0, lambda: features), features.half().float())


def truncate(path):
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[:-20])


def spoil(path):
    """Another file of the same length."""
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize("damage, said", [(truncate, "is damaged: .* Remove it"), (spoil, "not the teacher cache")])
def test_damaged_or_foreign_file_is_rejected_and_left_unchanged(tmp_path, damage, said):
    path = small(tmp_path).path
    damage(path)
    before = path.read_bytes()
    with pytest.raises(CacheError, match=said) as error:
        small(tmp_path)
    assert str(path) in str(error.value) and path.read_bytes() == before


def test_lock_that_is_a_link_is_rejected(tmp_path):
    path = small(tmp_path).path
    path.unlink()
    path.with_suffix(".lock").unlink()
    (tmp_path / "victim").write_text("precious")
    path.with_suffix(".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(CacheError, match=r"\.lock: a link; expected a regular file"):
        small(tmp_path)
    assert (tmp_path / "victim").read_text() == "precious" and not path.exists()


def test_parts_of_killed_processes_are_removed(tmp_path):
    other = tmp_path / f".{'0' * 32}.json.abcdefgh.part"  # of another cache, whose writer may be alive
    path = small(tmp_path).path
    parts = [tmp_path / f".{path.stem}.{what}.abcdefgh.part" for what in ("json", "features")]
    path.unlink()
    for part in (*parts, other):
        part.touch()
    small(tmp_path)
    assert list(tmp_path.glob(".*.part")) == [other]


def test_renamed_cache_is_rejected(tmp_path):
    other = small(tmp_path, teacher="b").path
    small(tmp_path).path.rename(other)
    with pytest.raises(CacheError, match="not the teacher cache"):
        small(tmp_path, teacher="b")


def test_full_disk_error_suggests_remedy(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CacheError, match=r"\.features.*No space left.*TRAINER.CASPL.TEACHER.CACHE"):
        small(tmp_path)
    assert not list(tmp_path.glob("*.features"))


def test_impossible_folder_is_one_error_line(root, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert guarded(lambda: train.run(line(root, tmp_path / "run", tmp_path / "file" / "cache"))) != 0
    error = capsys.readouterr().err
    assert str(tmp_path / "file" / "cache") in error and "TEACHER.CACHE" in error and "Traceback" not in error


@pytest.mark.parametrize("more, said", [({"SEED": -1}, "SEED"), ({"TRAINER__CASPL__TEACHER__VIEWS": -1}, "VIEWS")])
def test_negative_values_are_rejected(root, tmp_path, capsys, more, said):
    assert guarded(lambda: train.run(line(root, tmp_path / "run", tmp_path / "cache", **more))) == 2
    assert f"{said}: -1; expected" in capsys.readouterr().err


class Killed:
    """Rows that kill the process at a write, after the data and before the checksum."""

    def __init__(self, rows, left):
        self.rows, self.left = rows, left

    def __getitem__(self, place):
        found = self.rows[place]
        return Column(found, self) if isinstance(place, str) else found


class Column:
    """A field of such rows."""

    def __init__(self, values, owner):
        self.values, self.owner = values, owner

    def __setitem__(self, place, value):
        self.owner.left -= 1
        if not self.owner.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.values[place] = value


def killing(root, folder):
    """In a separate process, which forks: kill runs at random writes until one gets through; exit codes."""
    rng, codes, write, opened = np.random.default_rng(0), [], TeacherCache._write, []

    def counted(cache, *args):
        if not opened:
            opened.append(Killed(cache.rows, left))
        cache.rows = opened[0]
        write(cache, *args)
        cache.rows = opened[0].rows

    def work(name, cache):
        arguments = line(root, folder / name, folder / cache, TEST__NO_TEST=True)
        return lambda: guarded(lambda: train.run(arguments))

    TeacherCache._write = counted
    for parity in (0, 1):  # before a checksum, before the data of a row
        left = int(rng.integers(2, 11)) * 2 + parity
        codes.append(protocol.child(work("killed", "cache")))
    TeacherCache._write = write
    codes += [protocol.child(work("killed", "cache")), protocol.child(work("alone", "other"))]
    pids = [protocol.forked(work(f"shared{n}", "shared")) for n in (0, 1)]
    return codes + [protocol.exit_code(pid) for pid in pids]


def test_killed_or_concurrent_runs_give_same_bits(root, tmp_path):
    command = children.program(__file__, root, tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, env=children.ALONE)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [-signal.SIGKILL] * 2 + [0] * 4
    alone = load_file(tmp_path / "alone" / "boosting.safetensors")
    for run in ("killed", "shared0", "shared1"):
        assert same(alone, load_file(tmp_path / run / "boosting.safetensors")), run
    caches = [next((tmp_path / name).glob("*.features")).read_bytes() for name in ("cache", "other", "shared")]
    assert caches[0] == caches[1] == caches[2]


if __name__ == "__main__":
    codes = killing(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(f"\n{json.dumps(codes)}\n")


def test_read_only_cache_uses_existing_rows(tmp_path, monkeypatch):
    """As root may write everywhere, the answer of the operating system is what is changed."""
    fresh = torch.randn(3, 4)
    wanted = TeacherCache(tmp_path, WHAT, 5, 2, 4).features(BATCH, 1, lambda: fresh)
    for file in tmp_path.glob("*.lock"):
        file.unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    cache = TeacherCache(tmp_path, WHAT, 5, 2, 4)
    assert torch.equal(cache.features(BATCH, 1, pytest.fail), wanted)
    with pytest.raises(CacheError, match="read-only and lacks images of view 0"):
        cache.features(BATCH, 0, pytest.fail)
    assert not cache.rows.flags.writeable and not list(tmp_path.glob("*.lock"))

"""Ways to damage a file, each drawn from a seeded generator."""

import io
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def _truncate(path: Path, rng: random.Random, trace: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data) + 1)])


def _flip(path: Path, rng: random.Random, trace: Path) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 2, 8])):
        if data:
            place = rng.randrange(min(len(data), rng.choice([200, len(data)])))
            data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def _insert(path: Path, rng: random.Random, trace: Path) -> None:
    data = path.read_bytes()
    place = rng.randrange(len(data) + 1)
    path.write_bytes(data[:place] + rng.randbytes(rng.randrange(1, 40)) + data[place:])


def _zero(path: Path, rng: random.Random, trace: Path) -> None:
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice([1, 64, 4096]))
    data[start:end] = bytes(end - start)
    path.write_bytes(bytes(data))


def _nest(path: Path, rng: random.Random, trace: Path) -> None:
    path.write_text(rng.choice(["[", '{"a":', "- "]) * rng.choice([1000, 100_000]))


def _text(path: Path, rng: random.Random, trace: Path) -> None:
    texts = ["", "null", "[]", "{}", "<!DOCTYPE html>", "1e999", "\x00", "9" * 6000, "\ufeff{}", "a: &a [*a, *a]"]
    path.write_text(rng.choice(texts))


def _noise(path: Path, rng: random.Random, trace: Path) -> None:
    path.write_bytes(rng.randbytes(rng.choice([1, 100, 10_000])))


def _pickled(path: Path, rng: random.Random, trace: Path) -> None:
    import torch

    stream = io.BytesIO()
    if rng.random() < 0.5:
        pickle.dump(Bomb(trace), stream, protocol=rng.randrange(0, 6))
    else:
        torch.save({"state_dict": Bomb(trace), "epoch": 1}, stream)
    path.write_bytes(stream.getvalue())


def _pipe(path: Path, rng: random.Random, trace: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path, rng: random.Random, trace: Path) -> None:
    path.unlink()
    path.mkdir()


def _missing(path: Path, rng: random.Random, trace: Path) -> None:
    path.unlink()


def _loop(path: Path, rng: random.Random, trace: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGES: dict[str, Callable[[Path, random.Random, Path], None]] = {
    "truncated": _truncate,
    "bits flipped": _flip,
    "bytes inserted": _insert,
    "zeroed": _zero,
    "nested": _nest,
    "other text": _text,
    "noise": _noise,
    "pickle that executes": _pickled,
    "named pipe": _pipe,
    "folder": _folder,
    "missing": _missing,
    "link to itself": _loop,
}


def copied(source: Path, target: Path) -> Path:
    """Return a fresh copy of a folder; weights and images, which no command writes to, are linked."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target, symlinks=True, copy_function=_linked))


def _linked(source: str, target: str) -> None:
    if source.endswith((".pt", ".png")) and not source.endswith("progress.pt"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def separate(path: Path) -> Path:
    """Give a linked file its own contents, so that it can be changed; return its path."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path

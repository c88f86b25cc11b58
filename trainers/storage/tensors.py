"""Reads tensors out of other people's checkpoints without executing anything that is pickled in them.

A `.pth.tar` of the Dassl family holds, beside the weights, whole pickled objects (a scheduler with its optimiser
inside, a NumPy scalar), which `torch.load(weights_only=True)` refuses. Here a pickle may name any class it likes: all
but tensors and plain containers become inert `Placeholder`s, and nothing that it names is ever imported or called.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class RestrictedReadError(ValueError):
    """A file that is no checkpoint, or one that is damaged."""


class Placeholder:
    """Stands for an object of a class that is not wanted: takes whatever the pickle does to it, and does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        """As a list's, in vain."""

    def extend(self, items):
        """As a list's, in vain."""


class _Storage:
    """Names a dtype where a pickle names a storage class."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


def read_checkpoint(path: str | Path) -> dict:
    """Everything in a checkpoint that `torch.save` wrote (PyTorch 1.6 or newer), objects other than tensors left out.

    Args:
        path: the file.

    Returns:
        What was saved; objects of other classes than tensors, numbers, strings and containers are `Placeholder`s.

    Raises:
        FileNotFoundError: there is no such file.
        RestrictedReadError: it is empty, truncated, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        raise RestrictedReadError(
            f"{path} ({path.stat().st_size} bytes) is not a zip archive as torch.save has written since PyTorch 1.6: "
            "it is truncated, of another format, or older; load and save it again with a newer PyTorch, or copy it again"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if any(member.split("/")[1:2] == ["code"] for member in members):
                raise RestrictedReadError(
                    "it is a TorchScript archive, a whole model, expected a checkpoint with a state dict: give the file "
                    "that training wrote (an archive of CLIP is a MODEL.BACKBONE.NAME)"
                )
            name = next((n for n in members if n.endswith("data.pkl")), None)
            if name is None:
                raise RestrictedReadError("there is no data.pkl in it, so it was not written by torch.save")
            with archive.open(name) as stream:
                return _Reader(stream, archive, name.removesuffix("data.pkl")).load()
    except RestrictedReadError as error:
        raise RestrictedReadError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # damaged pickles fail in every imaginable way, none of them the caller's fault
        raise RestrictedReadError(
            f"{path} cannot be read, it is damaged ({type(error).__name__}: {error}): copy it again, or train again"
        ) from error


class _Reader(pickle.Unpickler):
    """An unpickler to which only tensors and plain containers mean anything."""

    def __init__(self, stream, archive: zipfile.ZipFile, folder: str):
        super().__init__(stream)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str):
        """Called by the pickle for every class or function that it names."""
        if module == "torch" and name in _DTYPES:
            return _Storage(_DTYPES[name])
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        return known.get((module, name), Placeholder)

    def persistent_load(self, reference):
        """Called by the pickle for a tensor's storage."""
        kind, storage, key, _, count = reference
        if kind != "storage" or not isinstance(storage, _Storage):
            raise RestrictedReadError(f"unknown storage {reference!r}")
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            self.storages[key] = (
                torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
            )
        if len(self.storages[key]) < count:
            raise RestrictedReadError(f"storage {key} has {len(self.storages[key])} elements, expected {count}")
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size, stride, requires_grad=False, hooks=None, metadata=None) -> Tensor:
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset - 1
    if offset < 0 or last >= len(storage) or any(s < 0 for s in stride):
        raise RestrictedReadError(f"a tensor of size {tuple(size)} reaches beyond its storage of {len(storage)}")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _parameter(data: Tensor, requires_grad=False, hooks=None) -> Tensor:
    return data

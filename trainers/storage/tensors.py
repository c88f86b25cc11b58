"""Reads tensors from PyTorch's files without executing anything that is pickled in them.

A `.pth.tar` of the Dassl family holds whole pickled objects alongside the weights (a scheduler with its optimiser, a
NumPy scalar), which `torch.load(weights_only=True)` rejects, and loading a TorchScript archive executes its code. Here a
pickle may name any class: all but tensors and plain containers become inert `Placeholder`s, and nothing that it names is
imported or called. The checksums that both kinds of archives carry are verified.
"""

import io
import math
import pickle
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_PICKLE = 1 << 28  # bytes of the structure around the tensors; real files have less than a megabyte
MAX_RATIO = 100  # of compressed data; weights hardly compress, and PyTorch stores them uncompressed
SMALL = 1 << 26  # bytes that any member may expand to
MAX_DEPTH = 100  # of a TorchScript archive's modules

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
    """A file that is not a checkpoint, or a damaged one."""


class Placeholder:
    """An inert object in place of one of another class.

    Every operation that a pickle can apply is a no-op.
    """

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item: object) -> None:
        """Ignore an item."""

    def extend(self, items: object) -> None:
        """Ignore items."""


class _Module(Placeholder):
    """A module of a TorchScript archive: its attributes, without its code."""

    attributes: dict = {}

    def __setstate__(self, state):
        self.attributes = state if isinstance(state, dict) else {}


class _Storage:
    """The dtype of a storage class that a pickle names."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


def read_checkpoint(path: str | Path) -> Any:
    """Read a checkpoint that `torch.save` has written (PyTorch 1.6 or newer).

    Args:
        path: the file.

    Returns:
        The saved object; objects other than tensors, numbers, strings and containers are `Placeholder`s.

    Raises:
        FileNotFoundError: the file does not exist.
        RestrictedReadError: it is empty, truncated, damaged or of another format.
    """
    return _read(Path(path), torchscript=False)


def has_placeholders(content: Any) -> bool:
    """Return whether what `read_checkpoint` returned lacks objects of other classes."""
    if isinstance(content, dict):
        return any(map(has_placeholders, content.values()))
    if isinstance(content, list | tuple):
        return any(map(has_placeholders, content))
    return isinstance(content, Placeholder) or (isinstance(content, type) and issubclass(content, Placeholder))


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights of a model.

    The file is a state dict that `torch.save` has written, or a TorchScript archive.

    A state dict may be wrapped as `{"state_dict": ..., ...}`. A TorchScript archive's tensors are named by the path of
    the attributes to them, as in its own state dict; none of its code is executed.

    Args:
        path: the file.

    Returns:
        The state dict, and the other entries of its wrapper; of a TorchScript archive `{"code": its source text}`.

    Raises:
        FileNotFoundError: the file does not exist.
        RestrictedReadError: it is empty, truncated, damaged, of another format, or does not hold a state dict.
    """
    content = _read(Path(path), torchscript=True)
    if isinstance(content, _Module):
        return dict(_tensors_of(content)), {"code": _code_of(Path(path))}
    state, others = content, {}
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        state = content["state_dict"]
        others = {str(key): value for key, value in content.items() if key != "state_dict"}
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RestrictedReadError(f"{path}: a {type(state).__name__}; expected a state dict of tensors")
    return state, others


def _code_of(path: Path) -> str:
    """Return the source text of a TorchScript archive."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.split("/")[1:2] == ["code"] and name.endswith(".py")]
        return "\n".join(_bytes(archive, name, SMALL).decode(errors="replace") for name in names)


def _tensors_of(module: _Module, prefix: str = "", depth: int = 0) -> list[tuple[str, Tensor]]:
    if depth > MAX_DEPTH:
        raise RestrictedReadError(f"modules nested more than {MAX_DEPTH} deep")
    found: list[tuple[str, Tensor]] = []
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            found.append((f"{prefix}{name}", value))
        elif isinstance(value, _Module):
            found += _tensors_of(value, f"{prefix}{name}.", depth + 1)
    return found


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of a damaged end; reading it reports what is wrong
        return True


def _read(path: Path, torchscript: bool) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not _is_zip(path):
        raise RestrictedReadError(
            f"{path}: {path.stat().st_size} bytes that are not a zip archive; expected a checkpoint as torch.save has "
            "written it since PyTorch 1.6. Copy the file again, or save it with a newer PyTorch"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _load(archive, torchscript)
    except RestrictedReadError as error:
        raise RestrictedReadError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # a damaged pickle can raise any exception
        raise RestrictedReadError(
            f"{path} cannot be read, it is damaged ({type(error).__name__}: {error}). Copy it again, or train again"
        ) from error


def _load(archive: zipfile.ZipFile, torchscript: bool) -> Any:
    members = archive.namelist()
    if not torchscript and any(member.split("/")[1:2] == ["code"] for member in members):
        raise RestrictedReadError(
            "it is a TorchScript archive, a whole model; expected a checkpoint with a state dict. Give the file that "
            "training wrote (an archive of CLIP is a MODEL.BACKBONE.NAME)"
        )
    name = next((member for member in members if member.endswith("data.pkl")), None)
    if name is None:
        raise RestrictedReadError("it has no data.pkl, so it was not written by torch.save")
    folder = name.removesuffix("data.pkl")
    if f"{folder}byteorder" in members and _bytes(archive, f"{folder}byteorder", 16) != b"little":
        raise RestrictedReadError("it was written on a big-endian machine; save it again on a little-endian one")
    return _Reader(io.BytesIO(_bytes(archive, name, MAX_PICKLE)), archive, folder).load()


def _bytes(archive: zipfile.ZipFile, name: str, most: float = math.inf) -> bytes:
    """Return a member's bytes; its checksum is verified, since all of it is read."""
    info = archive.getinfo(name)
    if info.file_size > max(SMALL, MAX_RATIO * info.compress_size):
        raise RestrictedReadError(f"{name} would expand from {info.compress_size:,} to {info.file_size:,} bytes")
    if info.file_size > most:
        raise RestrictedReadError(f"{name} has {info.file_size:,} bytes; expected at most {most:,}")
    return archive.read(name)


class _Reader(pickle.Unpickler):
    """An unpickler that builds only tensors and plain containers."""

    def __init__(self, stream: io.BytesIO, archive: zipfile.ZipFile, folder: str):
        super().__init__(stream)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the placeholder for a class or function that the pickle names."""
        if module == "torch" and name in _DTYPES:
            return _Storage(_DTYPES[name])
        if module.split(".")[0] == "__torch__":
            return _Module
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "Counter"): Counter,  # the milestones of a MultiStepLR
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("_codecs", "encode"): _encoded,  # how bytes are pickled
        }
        return known.get((module, name), Placeholder)

    def persistent_load(self, reference: Any) -> Tensor:
        """Return the storage that a tensor of the pickle refers to."""
        kind, storage, key, _, count = reference
        if kind != "storage" or not isinstance(storage, _Storage):
            raise RestrictedReadError(f"unknown storage {reference!r}")
        if key not in self.storages:
            data = bytearray(_bytes(self.archive, f"{self.folder}data/{key}"))
            self.storages[key] = (
                torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
            )
        if len(self.storages[key]) < count:
            raise RestrictedReadError(f"storage {key} has {len(self.storages[key])} elements; expected {count}")
        return self.storages[key]


def _encoded(text: str, encoding: str) -> bytes:
    """Return pickled bytes, which are stored as Latin-1 text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RestrictedReadError(f"bytes in the encoding {encoding!r}; expected 'latin1'")
    return text.encode("latin1")


def _tensor(storage: Tensor, offset: int, size, stride, requires_grad=False, hooks=None, metadata=None) -> Tensor:
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset - 1
    if offset < 0 or last >= len(storage) or any(s < 0 for s in stride) or any(n < 0 for n in size):
        raise RestrictedReadError(f"a tensor of size {tuple(size)} exceeds its storage of {len(storage)} elements")
    if math.prod(size) > len(storage):  # strides of 0 would let a small file claim any amount of memory
        raise RestrictedReadError(f"a tensor of size {tuple(size)} repeats its storage of {len(storage)} elements")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _parameter(data: Tensor, requires_grad=False, hooks=None) -> Tensor:
    return data

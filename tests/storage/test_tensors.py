"""The safe reader: tensors are read, nothing is executed, damage is rejected."""

import zipfile

import pytest
import torch

from scripts.faults.torchscript import Writing
from trainers.storage.tensors import Placeholder, RestrictedReadError, read_checkpoint, read_weights


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickled_objects_are_not_executed(tmp_path):
    trace = tmp_path / "trace"
    content = {
        "state_dict": {"x": torch.arange(6.0).reshape(2, 3).t()},
        "optimizer": Bomb(trace),
        "more": [Bomb(trace)],
    }
    torch.save(content, tmp_path / "bomb.pth.tar")
    read = read_checkpoint(tmp_path / "bomb.pth.tar")
    assert torch.equal(read["state_dict"]["x"], content["state_dict"]["x"])
    assert isinstance(read["optimizer"], Placeholder) and not trace.exists()
    torch.load(tmp_path / "bomb.pth.tar", weights_only=False)
    assert trace.exists(), "the bomb is harmless, so the test cannot fail"


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "no pickle", "short storage", "cut pickle"])
def test_damaged_checkpoint_is_rejected(tmp_path, damage):
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": {"x": torch.zeros(1000)}}, path)
    if damage in ("empty", "text", "truncated"):
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": path.read_bytes()[:2000]}[damage])
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                if name.endswith("data.pkl"):
                    if damage == "no pickle":
                        continue
                    data = data[:20] if damage == "cut pickle" else data
                archive.writestr(name, data[:100] if damage == "short storage" and "/data/" in name else data)
    with pytest.raises(RestrictedReadError, match=r"model\.pth\.tar"):
        read_checkpoint(path)


class Tower(torch.nn.Module):
    """A module with a submodule, a buffer and an attribute, which TorchScript can archive."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 2)
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        self.register_buffer("resolution", torch.tensor(224))

    def forward(self, x: torch.Tensor):
        return self.layers(self.first(x))


def archive(module, path):
    """Write a TorchScript archive."""
    torch.jit.save(torch.jit.script(module), path)
    return path


def test_torchscript_state_dict_matches_pytorch(tmp_path):
    module = Tower()
    read, others = read_weights(archive(module, tmp_path / "archive.pt"))
    assert "class Tower" in others["code"]
    assert read.keys() == module.state_dict().keys()
    assert all(torch.equal(read[key], value) for key, value in module.state_dict().items())


def test_torchscript_code_is_not_executed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("something precious")
    path = archive(Writing(str(victim)), tmp_path / "archive.pt")
    assert read_weights(path)[0] == {}
    with pytest.raises(RestrictedReadError, match="TorchScript archive"):
        read_checkpoint(path)
    assert victim.read_text() == "something precious"
    torch.jit.load(path)
    assert victim.read_text() != "something precious", "the archive is harmless, so the test cannot fail"


@pytest.mark.parametrize("kind", ["state dict", "TorchScript"])
@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_flipped_bit_is_rejected(tmp_path, kind, where):
    path = tmp_path / "weights.pt"
    if kind == "TorchScript":
        archive(Tower(), path)
    else:
        torch.save(Tower().state_dict(), path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as opened:
        info = [info for info in opened.infolist() if "/data/" in info.filename][where]
    lengths = (int.from_bytes(data[info.header_offset + at : info.header_offset + at + 2], "little") for at in (26, 28))
    data[info.header_offset + 30 + sum(lengths) + info.file_size // 2] ^= 1 << 5
    path.write_bytes(data)
    with pytest.raises(RestrictedReadError, match=r"weights\.pt cannot be read, it is damaged .*CRC"):
        read_weights(path)


@pytest.mark.parametrize("size, stride", [((2**31, 2**31), (0, 0)), ((1, 2**40), (1, 0)), ((2, 4), (4, 1))])
def test_tensor_larger_than_its_storage_is_rejected(tmp_path, size, stride):
    torch.save({"x": torch.zeros(4)[:1].as_strided(size, stride) if 0 in stride else torch.zeros(2, 4)}, tmp_path / "x")
    if 0 not in stride:
        with zipfile.ZipFile(tmp_path / "x") as opened:
            members = {name: opened.read(name) for name in opened.namelist()}
        with zipfile.ZipFile(tmp_path / "x", "w") as opened:
            for name, data in members.items():
                opened.writestr(name, data[:20] if "/data/" in name else data)
    with pytest.raises(RestrictedReadError, match="storage"):
        read_checkpoint(tmp_path / "x")


def test_compression_bomb_is_rejected(tmp_path):
    torch.save({"x": torch.zeros(4)}, tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x") as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(name, bytes(1 << 27) if "/data/" in name else data)
    with pytest.raises(RestrictedReadError, match="would expand from"):
        read_checkpoint(tmp_path / "x")


def test_web_page_is_rejected_in_one_line(tmp_path):
    (tmp_path / "page.pt").write_text("<html><body>Not found</body></html>\n")
    with pytest.raises(RestrictedReadError, match=r"page\.pt: 36 bytes that are not a zip archive") as caught:
        read_weights(tmp_path / "page.pt")
    assert "\n" not in str(caught.value)


def test_bytes_are_read(tmp_path):
    """R-AMT saves its masks as bytes in the state dict."""
    torch.save({"state_dict": {"mask": bytes(range(256))}}, tmp_path / "file")
    assert read_checkpoint(tmp_path / "file")["state_dict"]["mask"] == bytes(range(256))


def test_state_of_a_multi_step_schedule_is_read(tmp_path):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    state = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5]).state_dict()
    torch.save(state, tmp_path / "schedule.pt")
    assert read_checkpoint(tmp_path / "schedule.pt")["milestones"] == {3: 2, 5: 1} == state["milestones"]


def test_archive_of_several_disks_is_rejected(tmp_path):
    path = tmp_path / "model.pth.tar"
    torch.save({"a": torch.zeros(2)}, path)
    content = bytearray(path.read_bytes())
    locator = content.rindex(b"PK\x06\x07") if b"PK\x06\x07" in content else None
    end = content.rindex(b"PK\x05\x06")
    if locator is None:
        record = b"PK\x06\x07" + (1).to_bytes(4, "little") + bytes(8) + (2).to_bytes(4, "little")
        content[end:end] = record
        end += len(record)
    else:
        content[locator + 16 : locator + 20] = (2).to_bytes(4, "little")
    content[end + 8 : end + 12] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(RestrictedReadError, match=str(path)):
        read_checkpoint(path)

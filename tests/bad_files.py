# SPDX-License-Identifier: Apache-2.0
"""Files that are no checkpoint, or a checkpoint with one thing wrong: each function writes one and returns its path."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitedge.demo import assets

State = dict[str, Tensor]
VIT, PIT = (model.path for model in assets.MODELS[:2])
VIT_HEADS = 2
"""Good checkpoints that the bad ones are made of."""


def vit_state() -> State:
    state: State = torch.load(VIT, weights_only=True)["model"]
    return state


def good(folder: Path) -> Path:
    return VIT


def good_pit(folder: Path) -> Path:
    return PIT


def absent(folder: Path) -> Path:
    return folder / "absent.pth"


def content(data: bytes, name: str = "weights.pth") -> Callable[[Path], Path]:
    """A file of just these bytes."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def changed(change: Callable[[State], object]) -> Callable[[Path], Path]:
    """A good ViT on whose weights ``change`` acted."""

    def write(folder: Path) -> Path:
        state = vit_state()
        change(state)
        torch.save({"model": state, "args": {"num_heads": VIT_HEADS}}, folder / "weights.pth")
        return folder / "weights.pth"

    return write


def cut(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def truncated_zip(folder: Path) -> Path:
    (folder / "weights.pth").write_bytes(VIT.read_bytes())
    return cut(folder / "weights.pth")


def truncated_legacy(folder: Path) -> Path:
    torch.save(vit_state(), folder / "weights.pth", _use_new_zipfile_serialization=False)
    return cut(folder / "weights.pth")


def truncated_safetensors(folder: Path) -> Path:
    (folder / "weights.safetensors").write_bytes(PIT.read_bytes())
    return cut(folder / "weights.safetensors")


def random_bytes(folder: Path) -> Path:
    return content(np.random.default_rng(0).bytes(1 << 16))(folder)


def huge_header(folder: Path) -> Path:
    return content(struct.pack("<Q", 1 << 60) + b'{"a":' + bytes(1000), "weights.safetensors")(folder)


def listing_metadata(folder: Path) -> Path:
    """Metadata of 15 MB whose text would become five million Python lists, each within no other."""
    return _with_metadata(folder, "[" + "[]," * 5_000_000 + "1]")


def nested_metadata(folder: Path) -> Path:
    """Metadata of a million lists within each other."""
    return _with_metadata(folder, "[" * 1_000_000)


def _with_metadata(folder: Path, text: str) -> Path:
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": {"num_heads": text}, "w": tensor}).encode()
    return content(struct.pack("<Q", len(header)) + header + bytes(4), "weights.safetensors")(folder)


def sparse_header(folder: Path) -> Path:
    """A safetensors file of 4 GB, nothing of it on the disk, 3 GB of which claim to be its header."""
    path = content(struct.pack("<Q", 3 << 30) + b"{", "weights.safetensors")(folder)
    with path.open("r+b") as file:
        file.truncate(4 << 30)
    return path


def zip_bomb(folder: Path) -> Path:
    """A quarter of a gigabyte of zeros where the weights should be, in a quarter of a megabyte of file."""
    torch.save({"a.weight": torch.zeros(4)}, folder / "good.pth")
    path = folder / "bomb.pth"
    with zipfile.ZipFile(folder / "good.pth") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if not name.endswith("data/0"):
                new.writestr(name, old.read(name))
        with new.open("good/data/0", "w", force_zip64=True) as stream:
            for _ in range(256):
                stream.write(bytes(1 << 20))
    return path


def npz_bomb(folder: Path) -> Path:
    header = np.lib.format.magic(1, 0) + struct.pack("<H", 118)
    shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1048576, 1048576), }"
    with zipfile.ZipFile(folder / "bomb.npz", "w") as archive:
        archive.writestr("Transformer/encoder_norm/scale.npy", header + shape.ljust(117) + b"\n")
    return folder / "bomb.npz"


def endless_view(folder: Path) -> Path:
    """One number that claims to be a matrix of four terabytes."""
    torch.save({"a.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, folder / "weights.pth")
    return folder / "weights.pth"


class _Asks:
    """A pickle of it calls ``function`` with ``arguments`` when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def proof(folder: Path) -> Path:
    """Path of the file that the hostile pickles would write."""
    return folder / "it-ran"


def hostile_system(folder: Path) -> Path:
    torch.save({"model": vit_state(), "epoch": _Asks(os.system, f"touch {proof(folder)}")}, folder / "weights.pth")
    return folder / "weights.pth"


def hostile_eval(folder: Path) -> Path:
    code = f"open({str(proof(folder))!r}, 'w')"
    torch.save(
        {"model": vit_state(), "epoch": _Asks(eval, code)},
        folder / "weights.pth",
        _use_new_zipfile_serialization=False,
    )
    return folder / "weights.pth"


def hostile_plain(folder: Path) -> Path:
    return content(pickle.dumps(_Asks(os.system, f"touch {proof(folder)}")))(folder)


class Net(nn.Linear):
    """Somebody's own model class."""


def whole_module(folder: Path) -> Path:
    torch.save(Net(2, 2), folder / "model.pth")
    return folder / "model.pth"


def torchscript(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "script.pt", "w") as archive:
        for name in ("script/data.pkl", "script/constants.pkl", "script/code/__torch__.py"):
            archive.writestr(name, b"")
    return folder / "script.pt"


def empty_folder(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    return folder / "model"


def missing_shard(folder: Path) -> Path:
    state = load_file(PIT)
    names = list(state)
    (folder / "model").mkdir()
    shards = {name: f"model-0000{1 + (index > 10)}-of-00002.safetensors" for index, name in enumerate(names)}
    first = {name: state[name] for name in names[:11]}
    save_file(first, folder / "model" / "model-00001-of-00002.safetensors")
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return folder / "model"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.pth")
    return folder / "pipe.pth"


def resnet(folder: Path) -> Path:
    state = {"conv1.weight": torch.ones(8, 3, 7, 7), "bn1.weight": torch.ones(8), "bn1.running_mean": torch.zeros(8)}
    for stage in (1, 2, 3, 4):
        state[f"layer{stage}.0.conv1.weight"] = torch.ones(8, 8, 3, 3)
        state[f"layer{stage}.0.bn1.weight"] = torch.ones(8)
    torch.save({**state, "fc.weight": torch.ones(10, 8), "fc.bias": torch.ones(10)}, folder / "resnet18.pth")
    return folder / "resnet18.pth"


def swin_v2(folder: Path) -> Path:
    import timm  # noqa: PLC0415 - two seconds that only this file costs

    model = timm.create_model(
        "swinv2_tiny_window8_256", img_size=32, window_size=4, embed_dim=24, depths=(1, 1), num_heads=(2, 2)
    )
    torch.save(model.state_dict(), folder / "swinv2.pth")
    return folder / "swinv2.pth"


def corrupt_images(folder: Path) -> Path:
    (folder / "photos").mkdir(parents=True)
    for index in range(4):
        (folder / "photos" / f"{index}.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    return folder / "photos"

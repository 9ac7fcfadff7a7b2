# SPDX-License-Identifier: Apache-2.0
"""A checkpoint never runs code, and never takes the machine down."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pathlib
import pickle
import resource
import struct
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitedge.checkpoints.files import pickles
from vitedge.checkpoints.files.container import open_container
from vitedge.errors import RefusedPickle, UnreadableCheckpoint


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made


FORMATS: dict[str, Callable[[object, Path], None]] = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "protocol 4": lambda content, path: torch.save(content, path, pickle_protocol=4),
    "plain": lambda content, path: path.write_bytes(pickle.dumps(content)) and None,
    "plain protocol 2": lambda content, path: path.write_bytes(pickle.dumps(content, 2)) and None,
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch {}", "posix.system"),
        (eval, "open({!r}, 'w')", "builtins.eval"),
        (subprocess.check_output, ["touch", "{}"], "subprocess.check_output"),
        (pathlib.Path.touch, "{}", ".touch"),
    ],
)
def test_hostile_pickle_is_refused_by_name(tmp_path: Path, kind: str, function: Any, argument: Any, name: str) -> None:
    if kind in ("zip", "legacy", "plain protocol 2") and name == ".touch":
        name = "getattr"  # protocol 2 has no other way to a method
    target = tmp_path / "pwned"
    filled = (
        [part.format(str(target)) for part in argument] if isinstance(argument, list) else argument.format(str(target))
    )
    path = tmp_path / "weights.pth"
    FORMATS[kind](
        {"model": {"a.weight": torch.ones(2)} if "plain" not in kind else {}, "x": Call(function, filled)}, path
    )
    with pytest.raises(RefusedPickle, match=name) as caught:
        open_container(path)
    assert caught.value.exit_code == 2
    assert not target.exists()


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_whole_module_is_refused_with_its_class_and_the_way_out(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.pth"
    FORMATS[kind](torch.nn.Sequential(torch.nn.Linear(2, 2)), path)
    with pytest.raises(RefusedPickle, match=r"torch\.nn\.modules.*save model\.state_dict\(\)"):
        open_container(path)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_weights_of_torchao_are_refused_with_the_way_to_dense_ones(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "torchao.dtypes.affine_quantized_tensor"
    for name in ("torchao", "torchao.dtypes", place):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    weight = type("AffineQuantizedTensor", (), {"__module__": place})
    monkeypatch.setattr(sys.modules[place], "AffineQuantizedTensor", weight, raising=False)
    FORMATS[kind]({"model": {"a.weight": weight(), "a.bias": torch.ones(2)}}, tmp_path / "a.pth")
    with pytest.raises(RefusedPickle, match=r"AffineQuantizedTensor: .* by torchao; save the dense state_dict"):
        open_container(tmp_path / "a.pth")


def test_newer_protocol_says_so(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "a.pth", pickle_protocol=4)
    with pytest.raises(UnreadableCheckpoint, match="default pickle protocol"):
        open_container(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_plain_containers_of_training_scripts_are_read(tmp_path: Path, kind: str) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(
        lr=np.float64(0.5),
        output=pathlib.Path("out/run"),
        means=np.arange(3.0),
        names=np.array(["a"]),
        dtype=np.dtype("f4"),
    )
    content = {
        "model": collections.OrderedDict(module.state_dict()),
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "optimizer": optimizer.state_dict(),
        "args": arguments,
        "history": collections.defaultdict(list, {1: [0.5]}),
        "milestones": collections.Counter([1, 2, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "seen": {1, 2},
    }
    FORMATS[kind](content, tmp_path / "a.pth")
    read = open_container(tmp_path / "a.pth").content
    assert torch.equal(read["model"]["weight"], module.weight)
    assert read["args"].lr == 0.5
    assert read["args"].output == "out/run"
    assert read["args"].means.tolist() == [0.0, 1.0, 2.0]
    assert read["history"] == {1: [0.5]}
    assert read["milestones"][2] == 2


def test_paths_that_python_3_13_saved_are_read(tmp_path: Path) -> None:
    FORMATS["legacy"]({"a.weight": torch.ones(1), "output": pathlib.PurePosixPath("out", "run")}, tmp_path / "a.pth")
    saved = (tmp_path / "a.pth").read_bytes().replace(b"cpathlib._local\n", b"cpathlib\n")
    for module in (b"cpathlib\n", b"cpathlib._local\n"):
        (tmp_path / "a.pth").write_bytes(saved.replace(b"cpathlib\n", module))
        assert open_container(tmp_path / "a.pth").content["output"] == "out/run"


def test_configuration_classes_become_plain_mappings(tmp_path: Path) -> None:
    node = type("CfgNode", (dict,), {"__module__": "yacs.config", "__qualname__": "CfgNode"})
    module = type(sys)("yacs.config")
    module.CfgNode = node  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "yacs", type(sys)("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        torch.save({"model": {"a.weight": torch.ones(1)}, "config": node(DEPTH=2)}, tmp_path / "swin.pth")
    assert open_container(tmp_path / "swin.pth").content["config"] == {"DEPTH": 2}


def write_zip(path: Path, data: bytes, records: dict[str, bytes] | None = None) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in {"data.pkl": data, "version": b"3\n", **(records or {})}.items():
            archive.writestr(f"archive/{name}", body)


def storage(count: int, kind: str = "FloatStorage") -> bytes:
    number = b"\x8a\x08" + struct.pack("<q", count)
    return b"(X\x07\x00\x00\x00storagectorch\n%s\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%stQ" % (kind.encode(), number)


def tensor(count: int, *, size: int, stride: int = 1) -> bytes:
    numbers = [b"\x8a\x08" + struct.pack("<q", value) for value in (0, size, stride)]
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(count) + b"%s%s\x85%s\x85" % tuple(numbers)
    return rebuilt + b"\x89ccollections\nOrderedDict\n)RtR"


def weights(made: bytes) -> bytes:
    return b"\x80\x02}X\x08\x00\x00\x00a.weight" + made + b"s."


NEST = 200_000
ATTACKS = {
    "storage of 2^50 elements": weights(tensor(2**50, size=2**50)),
    "tensor beyond its storage": weights(tensor(4, size=2**40)),
    "negative size": weights(tensor(4, size=-1)),
    "number that is allocated": b"\x80\x02ctorch\nFloatTensor\n\x8a\x08" + struct.pack("<q", 2**40) + b"\x85R.",
    "bytearray that is allocated": b"\x80\x02c__builtin__\nbytearray\n\x8a\x08" + struct.pack("<q", 2**40) + b"\x85R.",
    "string of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "nested tuples as a key": b"\x80\x02})" + b"\x85" * NEST + b"Ns.",
    "exponential tuple as a key": b"\x80\x02}K\x01\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Ns.",
    "exponential set": b"\x80\x02c__builtin__\nset\n]K\x01\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"a\x85R.",
    "opcodes without end": b"\x80\x02]" + b"Na" * 300_000 + b".",
    "stack underflow": b"\x80\x02R.",
    "no stop": b"\x80\x02}",
    "unknown memo": b"\x80\x02h\x07.",
    "open mark": b"\x80\x02t.",
    "reference outside": b"\x80\x02X\x03\x00\x00\x00urlQ.",
    "name without end": b"\x80\x02c" + b"a" * 100_000,
    "not a pickle": bytes(range(255, 0, -1)),
    "empty": b"",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_end_in_one_sentence_quickly_and_without_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.pth"
    write_zip(path, ATTACKS[name], {"data/0": bytes(16)})
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_container(path)
    took, grown = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert took < (4 if "opcodes" in name else 1)
    assert grown < 512 * 1024
    assert "\n" not in str(caught.value)


def test_legacy_storage_is_not_allocated_before_the_file_is_measured(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(4)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pth").read_bytes()
    assert data.count(b"K\x04N") == 1
    (tmp_path / "a.pth").write_bytes(data.replace(b"K\x04N", b"\x8a\x08" + struct.pack("<q", 2**33) + b"N"))
    with pytest.raises(UnreadableCheckpoint, match="should have 34359738368 bytes"):
        open_container(tmp_path / "a.pth")


def test_handmade_tensor_is_read(tmp_path: Path) -> None:
    """The attacks above differ from this file in one number each."""
    write_zip(tmp_path / "a.pth", weights(tensor(4, size=4)), {"data/0": np.arange(4, dtype="<f4").tobytes()})
    assert open_container(tmp_path / "a.pth").content["a.weight"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_scan_finds_names_of_every_protocol_and_the_storages() -> None:
    for protocol in range(6):
        stream = io.BytesIO(pickle.dumps({"x": Call(os.system, "true")}, protocol))
        assert pickles.scan(stream, "file").refused == (f"{os.name}.system",)
    found = pickles.scan(io.BytesIO(weights(tensor(7, size=7))), "file")
    assert found.storages == {"0": 28}
    assert not found.refused
    assert not found.foreign

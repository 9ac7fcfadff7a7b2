# SPDX-License-Identifier: Apache-2.0
"""Tests of `container`, `arrays`, `folders` and `torchfiles`: every format, and every file that only looks like one."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vitedge.checkpoints.files.container import open_container
from vitedge.errors import RefusedPickle, UnreadableCheckpoint

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b.bias": torch.ones(2)}


def same(content: dict[str, torch.Tensor]) -> bool:
    return set(content) == set(WEIGHTS) and all(torch.equal(content[name], WEIGHTS[name]) for name in WEIGHTS)


def refusal(path: Path, within: float = 1.0) -> str:
    start = time.perf_counter()
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_container(path)
    assert time.perf_counter() - start < within
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".anything"])
def test_format_is_decided_by_the_bytes_and_not_by_the_suffix(tmp_path: Path, suffix: str) -> None:
    for kind, write in (
        ("pytorch zip", lambda path: torch.save(WEIGHTS, path)),
        ("pytorch legacy", lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)),
        ("safetensors", lambda path: save_file(WEIGHTS, path, {"spec": "{}"})),
    ):
        path = tmp_path / f"{kind.replace(' ', '-')}{suffix}"
        write(path)
        opened = open_container(path)
        assert opened.kind == kind
        assert opened.size == path.stat().st_size
        assert opened.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
        assert same(opened.content)
    assert opened.metadata == {"spec": "{}"}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_keeps_slashes_and_reads_bfloat16(tmp_path: Path, save: object) -> None:
    path = tmp_path / "vit.npz"
    half = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    arrays = {"Transformer/head/kernel": np.arange(6.0).reshape(2, 3), "order": np.asfortranarray(np.eye(2, 3))}
    save(path, **arrays, half=half.view(torch.int16).numpy().view("V2"), name=np.array("x"))  # type: ignore[operator]
    content = open_container(path).content
    assert set(content) == {*arrays, "half"}
    for name, array in arrays.items():
        assert np.array_equal(content[name].numpy(), array)
    assert torch.equal(content["half"], half)


def write_folder(folder: Path, *, sharded: bool, suffix: str) -> None:
    write = save_file if suffix == "safetensors" else torch.save
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    (folder / "config.json").write_text('{"model_type": "vit"}')
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    if not sharded:
        write(WEIGHTS, folder / f"{stem}.{suffix}")
        return
    files = {name: f"{stem}-0000{index}-of-00002.{suffix}" for index, name in enumerate(WEIGHTS, 1)}
    for name, file in files.items():
        write({name: WEIGHTS[name]}, folder / file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": files}))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_folder(tmp_path: Path, sharded: bool, suffix: str) -> None:
    write_folder(tmp_path, sharded=sharded, suffix=suffix)
    opened = open_container(tmp_path)
    assert opened.kind == "huggingface folder"
    assert same(opened.content)
    assert opened.config == {"model_type": "vit"}
    assert opened.preprocessor == {"image_mean": [0.5]}
    assert opened.size == sum(file.stat().st_size for file in tmp_path.iterdir())
    before = opened.sha256()
    (tmp_path / "config.json").write_text('{"model_type": "tiv"}')
    assert open_container(tmp_path).sha256() != before


def test_folder_index_stays_in_its_folder_and_keeps_its_promises(tmp_path: Path) -> None:
    write_folder(tmp_path, sharded=True, suffix="bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    for file in ("../outside.bin", "/etc/passwd", "..", "a\\b"):
        index.write_text(json.dumps({"weight_map": {"a.weight": file}}))
        with pytest.raises(UnreadableCheckpoint, match="outside its folder"):
            open_container(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a.weight": "absent.bin"}}))
    with pytest.raises(UnreadableCheckpoint, match=r"absent\.bin, which is not in the folder"):
        open_container(tmp_path)
    index.write_text(json.dumps({"weight_map": {"c.weight": "pytorch_model-00001-of-00002.bin"}}))
    with pytest.raises(UnreadableCheckpoint, match=r"does not hold c\.weight"):
        open_container(tmp_path)
    index.write_text("[" * 100_000)
    with pytest.raises(UnreadableCheckpoint, match="cannot be read as JSON"):
        open_container(tmp_path)


def test_folder_without_weights_names_what_it_has_instead(tmp_path: Path) -> None:
    assert "holds no weights" in refusal(tmp_path)
    torch.save(WEIGHTS, tmp_path / "best.pth")
    assert str(tmp_path / "best.pth") in refusal(tmp_path)


ONNX = bytes([8, 10, 0x12, 7]) + b"pytorch" + bytes(50)
LOOKALIKES = {
    "empty": (b"", "is empty"),
    "random": (np.random.default_rng(0).bytes(4096), "not a checkpoint"),
    "page": (b"\n<!DOCTYPE html><html>404", "web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "onnx": (ONNX, "ONNX model"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip"),
    "json": (b'{"weights": "elsewhere"}', "JSON"),
    "tar": (bytes(257) + b"ustar" + bytes(300), "tar archive"),
    "huge header": (struct.pack("<Q", 2**60) + b'{"a":' + bytes(99), "header should have 1152921504606846976 bytes"),
    "half header": (struct.pack("<Q", 80) + b'{"a":' + b" " * 99, "cannot be read as safetensors"),
    "zip stub": (b"PK\x03\x04" + bytes(40), "zip directory"),
    "legacy stub": (bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80"), "cannot be followed"),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_get_a_sentence_of_their_own(tmp_path: Path, name: str) -> None:
    content, words = LOOKALIKES[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert words in refusal(path)


def test_missing_and_special_files(tmp_path: Path) -> None:
    assert "timm:NAME" in refusal(tmp_path / "absent.pth")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "npz"])
def test_truncated(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "weights.pth"
    big = {"a.weight": torch.randn(64, 64), "b.weight": torch.randn(64, 64)}
    if kind == "safetensors":
        save_file(big, path)
    elif kind == "npz":
        with path.open("wb") as stream:
            np.savez(stream, **{name: tensor.numpy() for name, tensor in big.items()})
    else:
        torch.save(big, path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refusal(path)


def rezip(source: Path, target: Path, change: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change.get(name.split("/", 1)[1], old.read(name)))


def test_zip_with_a_storage_shorter_than_declared(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "good.pth")
    rezip(tmp_path / "good.pth", tmp_path / "bad.pth", {"data/0": b"1234"})
    assert "storage 0 should have 48 bytes" in refusal(tmp_path / "bad.pth")


def test_zip_bombs(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "good.pth")
    rezip(tmp_path / "good.pth", tmp_path / "bomb.pth", {"data/0": bytes(2**27)}, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(tmp_path / "bomb.pth")
    header = np.lib.format.magic(1, 0) + struct.pack("<H", 118)
    shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1048576, 1048576), }"
    for name, body in (("liar.npz", b""), ("bomb.npz", bytes(2**27))):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.npy", header + shape.ljust(117) + b"\n" + body)
    assert "bytes that its header declares" in refusal(tmp_path / "liar.npz")
    assert "would expand to" in refusal(tmp_path / "bomb.npz")


def test_zips_that_are_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("photo.jpg", b"")
    assert "holds photo.jpg" in refusal(tmp_path / "photos.pth")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("x/data.pkl", "x/constants.pkl", "x/code/m.py"):
            archive.writestr(name, b"")
    assert "TorchScript" in refusal(tmp_path / "script.pt")


def test_npz_of_objects_is_a_refused_pickle(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(RefusedPickle, match=r"a\.npy is a pickle"):
        open_container(tmp_path / "a.npz")


def test_large_tensors_are_mapped_and_not_read(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(64 * 2**20)}, tmp_path / "large.pth")
    code = (
        "import resource, sys; from vitedge.checkpoints.files.container import open_container\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "open_container(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "large.pth")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < 64 * 2**20


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_of_a_configured_folder_brings_its_configuration(tmp_path: Path, suffix: str) -> None:
    write_folder(tmp_path, sharded=False, suffix=suffix)
    (file,) = (path for path in tmp_path.iterdir() if path.suffix != ".json")
    opened = open_container(file)
    assert (opened.config, opened.preprocessor) == ({"model_type": "vit"}, {"image_mean": [0.5]})
    assert opened.sha256() == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [path.name for path in opened.files] == [file.name, "config.json", "preprocessor_config.json"]
    assert "is read as the configuration of these weights" in opened.notes[0]
    other = tmp_path / "best.pth"
    torch.save(WEIGHTS, other)
    assert open_container(other).config == {}
    assert "is not read" in open_container(other).notes[0]
    file.unlink()
    assert open_container(other).config == {"model_type": "vit"}
    (tmp_path / "config.json").write_text('{"port": 80}')
    assert (open_container(other).config, open_container(other).notes) == ({}, ())


def test_a_header_of_hundreds_of_thousands_of_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{number}": nothing for number in range(20_001)}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "holds 20001 tensors" in refusal(path)

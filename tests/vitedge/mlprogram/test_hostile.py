# SPDX-License-Identifier: Apache-2.0
"""Packages that somebody made to do harm, or that a disk damaged: each is refused in one sentence, quickly, unread."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.vitedge.mlprogram import handmade
from tests.vitedge.mlprogram.handmade import WEIGHT, blob_file, block_of
from tests.vitedge.mlprogram.hostile_models import MODELS, Alter, set_shape
from vitedge.errors import UnreadableArtifact
from vitedge.export.coreml.artifact import describe
from vitedge.mlprogram.package import MANIFEST, MODEL, WEIGHTS


def refused(path: Path, words: str) -> None:
    start = time.perf_counter()
    with pytest.raises(UnreadableArtifact, match=words) as caught:
        describe(path)
    assert time.perf_counter() - start < 1
    text = str(caught.value)
    assert text.isprintable()
    assert text.endswith(".")
    assert len(text) < 600


@pytest.mark.parametrize(("alter", "words"), [entry[1:] for entry in MODELS], ids=[entry[0] for entry in MODELS])
def test_a_hostile_model(tmp_path: Path, alter: Alter, words: str) -> None:
    refused(handmade.write(tmp_path, alter), words)


def patched(start: int, layout: str, *values: int) -> bytes:
    content = bytearray(blob_file([(2, WEIGHT.tobytes())]))
    struct.pack_into(layout, content, start, *values)
    return bytes(content)


BLOBS: list[tuple[str, bytes, str]] = [
    ("empty", b"", "offset 64, where there is none"),
    ("cut in its header", b"\x01\0\0\0", "ends before its header does"),
    ("cut in its metadata", patched(0, "<I", 1)[:80], "ends before offset 64"),
    ("cut in its data", patched(0, "<I", 1)[:-1], "says that its 48 bytes lie at 128"),
    ("no blobs", patched(0, "<I", 0), "goes on after the last of its 0 blobs"),
    ("a blob too many", patched(0, "<I", 2), "ends before offset 192"),
    ("4 billion blobs", patched(0, "<I", 2**32 - 1), "speaks of 4294967295 blobs"),
    ("version 1", patched(4, "<I", 1), "in version 1 of the layout"),
    ("another sentinel", patched(64, "<I", 0xDEADBEEE), "at offset 64 there is no blob"),
    ("an unknown type", patched(68, "<I", 99), "at offset 64 there is no blob"),
    ("another type", patched(68, "<I", 14), "does not hold 12 values of float32"),
    ("another size", patched(72, "<Q", 44), "does not hold 12 values of float32"),
    ("a size of 64 bits", patched(72, "<Q", 2**64 - 1), "says that its 18446744073709551615 bytes lie at 128"),
    ("data that overlap the header", patched(80, "<Q", 0), "bytes lie at 0"),
    ("data that overlap their metadata", patched(80, "<Q", 64), "bytes lie at 64"),
    ("data that are not aligned", patched(80, "<Q", 127), "bytes lie at 127"),
    ("data beyond the file", patched(80, "<Q", 2**20), "bytes lie at 1048576"),
    ("data that wrap", patched(72, "<QQ", 48, 2**64 - 24), "bytes lie at 18446744073709551592"),
]


@pytest.mark.parametrize(("weights", "words"), [entry[1:] for entry in BLOBS], ids=[entry[0] for entry in BLOBS])
def test_hostile_weights(tmp_path: Path, weights: bytes, words: str) -> None:
    refused(handmade.write(tmp_path, weights=weights), words)


def manifest(**entries: str) -> bytes:
    items = {name: {"path": path} for name, path in entries.items()}
    return json.dumps({"itemInfoEntries": items, "rootModelIdentifier": "root"}).encode()


ROOT = "com.apple.CoreML/model.mlmodel"
NOT_JSON = "is not JSON that lists its items"
MANIFESTS: list[tuple[str, bytes, str]] = [
    ("empty", b"", NOT_JSON),
    ("deep", b"[" * 500_000, NOT_JSON),
    ("of 100 MB", b" " * 100_000_000, "has 100000000 bytes"),
    ("not UTF-8", b"\xff\xfe{}", NOT_JSON),
    ("a list", b"[]", NOT_JSON),
    ("of numbers", b'{"itemInfoEntries": {"root": 1}, "rootModelIdentifier": "root"}', NOT_JSON),
    ("with a list for an identifier", b'{"itemInfoEntries": {}, "rootModelIdentifier": []}', NOT_JSON),
    ("of a huge number", b"1" * 10_000, NOT_JSON),
    ("without the root", manifest(other=ROOT), NOT_JSON),
    ("of a path that leaves", manifest(root=ROOT, other="../../../../etc/passwd"), "it lacks '../../../../etc/passwd'"),
    ("of an absolute path", manifest(root=ROOT, other="/etc/passwd"), "it lacks '/etc/passwd'"),
    ("of a root that leaves", manifest(root="../" + MANIFEST), "it lacks '../Manifest.json'"),
    ("of another root", manifest(root="com.apple.CoreML/weights"), "its model is 'com.apple.CoreML/weights' and not"),
    ("of a path with a NUL", manifest(root=ROOT, other="\0"), "it lacks"),
    ("of a surrogate", manifest(root=ROOT, other="\ud800"), "it lacks"),
    ("of a long path", manifest(root=ROOT, other="x" * 100_000), "it lacks"),
    (
        "of a number for a path",
        b'{"itemInfoEntries": {"root": {"path": 7}}, "rootModelIdentifier": "root"}',
        "lacks '7'",
    ),
    ("of many items", manifest(root=ROOT, **{f"i{n}": ROOT for n in range(9000)}), "lists 9001 items"),
]


@pytest.mark.parametrize(
    ("content", "words"), [entry[1:] for entry in MANIFESTS], ids=[entry[0] for entry in MANIFESTS]
)
def test_a_hostile_manifest(tmp_path: Path, content: bytes, words: str) -> None:
    refused(handmade.write(tmp_path, files={MANIFEST: content}), words)


@pytest.mark.parametrize("name", [MANIFEST, MODEL, WEIGHTS])
@pytest.mark.parametrize("instead", ["folder", "pipe", "link out", "link in a circle", "nothing", "device"])
def test_a_file_that_is_none(tmp_path: Path, name: str, instead: str) -> None:
    path = handmade.write(tmp_path)
    file = path / name
    (tmp_path / "outside").write_bytes(file.read_bytes())
    file.unlink()
    if instead == "folder":
        file.mkdir()
    elif instead == "pipe":
        os.mkfifo(file)
    elif instead != "nothing":
        targets = {"link out": tmp_path / "outside", "link in a circle": file, "device": Path("/dev/zero")}
        file.symlink_to(targets[instead])
    refused(path, Path(name).name.replace(".", r"\."))


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, MANIFEST])
def test_a_sparse_file_of_a_terabyte(tmp_path: Path, name: str) -> None:
    path = handmade.write(tmp_path)
    with (path / name).open("r+b") as file:
        file.truncate(2**40)
    refused(path, "1099511627776 bytes")


@pytest.mark.parametrize("edge", [2**30, 2**32])
def test_sparse_weights_that_a_program_refers_to(tmp_path: Path, edge: int) -> None:
    """Within the bound of a file the program decides, and it declares too much or something else."""
    content = patched(72, "<Q", edge * 4)
    path = handmade.write(tmp_path, set_shape((edge,)) if edge > 2**30 else lambda model: None, weights=content)
    with (path / WEIGHTS).open("r+b") as file:
        file.truncate(128 + edge * 4)
    refused(path, "which no model has" if edge > 2**30 else "does not hold 12 values")


@pytest.mark.parametrize("kept", [0, 1, 20, 100, 300, -1])
def test_a_truncated_specification(tmp_path: Path, kept: int) -> None:
    path = handmade.write(tmp_path)
    (path / MODEL).write_bytes((path / MODEL).read_bytes()[:kept])
    refused(path, "model")


def test_names_that_are_no_package(tmp_path: Path) -> None:
    (tmp_path / "empty.mlpackage").mkdir()
    refused(tmp_path / "empty.mlpackage", "it has no file Manifest.json")
    (tmp_path / "file.mlpackage").write_bytes(b"text")
    refused(tmp_path / "file.mlpackage", "that is a folder")
    shutil.copytree(handmade.write(tmp_path), tmp_path / "cut.mlpackage", ignore=shutil.ignore_patterns("Data"))
    refused(tmp_path / "cut.mlpackage", "it lacks 'com.apple.CoreML/weights'")


def test_what_is_random(tmp_path: Path) -> None:
    refused(handmade.write(tmp_path, files={MODEL: bytes(range(256)) * 4000}), "cannot be read as a Core ML model")
    refused(handmade.write(tmp_path / "b", files={MODEL: b"\xaa\x1f\xff\xff\xff\xff\x07"}), "cannot be read")


LIMITED = """
import resource, sys, time
from pathlib import Path
from vitedge.errors import UnreadableArtifact
from vitedge.export.coreml.artifact import describe
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, size + 2**29))
for path in sys.argv[1:]:
    start = time.perf_counter()
    try:
        describe(Path(path))
    except UnreadableArtifact as error:
        print(f"{time.perf_counter() - start:.3f} {'torch' in sys.modules or 'coremltools' in sys.modules} {error}")
"""


def test_hostile_packages_take_no_memory(tmp_path: Path) -> None:
    """Half a gigabyte above what Python takes; neither PyTorch nor coremltools is imported."""
    names = ("many values just below the limit", "too many arguments", "a million dimensions", "value of 2^40")
    paths = [handmade.write(tmp_path / name, alter) for name, alter, _ in MODELS if name in names]
    paths.append(handmade.write(tmp_path / "deep", files={MANIFEST: b"[" * 500_000}))
    paths.append(handmade.write(tmp_path / "wide", files={MODEL: _amplified()}))
    for name in (WEIGHTS, MODEL):
        path = handmade.write(tmp_path / Path(name).name)
        with (path / name).open("r+b") as file:
            file.truncate(2**40)
        paths.append(path)
    command = [sys.executable, "-c", LIMITED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths) == 8
    for line in lines:
        seconds, imported, _ = line.split(" ", 2)
        assert float(seconds) < 1
        assert imported == "False"


def _amplified() -> bytes:
    """Two bytes for every operation, so that a parsed file is many times as large as itself."""
    model = handmade.model()
    block_of(model).ClearField("operations")
    operations = b"\x1a\x00" * 2_000_000
    block = handmade.proto("MIL").Block.FromString(operations)
    block_of(model).CopyFrom(block)
    return model.SerializeToString()


@pytest.mark.parametrize("name", ["offset beyond the file", "a circle", "a neural network"])
def test_the_command_line_refuses_in_one_sentence(tmp_path: Path, name: str) -> None:
    alter, words = next(entry[1:] for entry in MODELS if entry[0] == name)
    path = handmade.write(tmp_path, alter)
    command = [sys.executable, "-X", "importtime", "-m", "vitedge", "validate", str(path), "--against", "none.pth"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert words in " ".join(said)
    assert "Traceback" not in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "coremltools"} & imported

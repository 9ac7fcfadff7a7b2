# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.vitedge.mlprogram import handmade
from vitedge.errors import MissingBackend, UnreadableArtifact
from vitedge.mlprogram.package import WEIGHTS, quoted, read_package


def test_a_package_is_read(tmp_path: Path) -> None:
    path = handmade.write(tmp_path)
    package = read_package(path)
    assert package.path == path
    assert package.functions == ("main",)
    assert package.default_function == "main"
    assert package.interface is not None
    assert package.blobs(handmade.WEIGHT_FILE).path == (path / WEIGHTS).resolve()
    assert package.blobs(handmade.WEIGHT_FILE) is package.blobs(handmade.WEIGHT_FILE)


def test_a_package_behind_a_link_is_read(tmp_path: Path) -> None:
    path = handmade.write(tmp_path / "there")
    (tmp_path / "here.mlpackage").symlink_to(path)
    assert read_package(tmp_path / "here.mlpackage").functions == ("main",)


def test_reading_imports_neither_coremltools_nor_pytorch(tmp_path: Path) -> None:
    path = handmade.write(tmp_path)
    script = (
        "import sys; from pathlib import Path\n"
        "from vitedge.mlprogram.package import read_package; from vitedge.mlprogram.program import read_program\n"
        f"program = read_program(read_package(Path({str(path)!r})))\n"
        "print(len(program.operations), 'coremltools' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False", "False"]


def test_without_coremltools_the_message_says_what_to_install(tmp_path: Path) -> None:
    path = handmade.write(tmp_path)
    script = (
        "import sys; sys.modules['coremltools'] = None; from pathlib import Path\n"
        "from vitedge.errors import MissingBackend; from vitedge.mlprogram.package import read_package\n"
        f"try: read_package(Path({str(path)!r}))\n"
        "except MissingBackend as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'coremltools'" in done.stdout


def test_generated_classes_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitedge import registry  # noqa: PLC0415

    with pytest.raises(MissingBackend, match="Nothing_pb2"):
        registry.generated("coremltools", "proto", "Nothing_pb2")
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingBackend, match="pip install 'absent'"):
        registry.generated("absent", "proto", "Model_pb2")


@pytest.mark.parametrize(
    "name",
    ["weights/weight.bin", "@model_path/../../Manifest.json", "@model_path//etc/passwd", "@model_path/none", "\0", ""],
)
def test_a_blob_file_outside_of_the_package_is_refused(tmp_path: Path, name: str) -> None:
    package = read_package(handmade.write(tmp_path))
    with pytest.raises(UnreadableArtifact, match="its weights are said to be in"):
        package.blobs(name)


def test_a_text_is_shown_on_one_line() -> None:
    assert quoted("a\nb\x1b[31m") == r"'a\nb\x1b[31m'"
    assert quoted("é\ud800") == r"'\xe9\ud800'"
    assert len(quoted("x" * 10**6)) < 200

# SPDX-License-Identifier: Apache-2.0
"""Tests of `kit` and `result`: from a bundle to a Mac and back. Core ML itself is played by the stand-in of `mac`."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bad_files import VIT
from tests.vitedge.devices.mac_kit.mac import play, run_kit
from vitedge.devices.mac_kit.kit import import_result, write_kit
from vitedge.errors import BadRecipe, BundleDamaged, CheckFailed, OutputRefused, UnreadableArtifact
from vitedge.files.bundle import check_files, read_manifest, write_manifest
from vitedge.guide.pages import reseal
from vitedge.recipe import ExportRecipe
from vitedge.records import BenchReport
from vitedge.verbs.export import export
from vitedge.verbs.validate import validate

NAME = "ALL/model.mlpackage/logits"


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def mac_result(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the demo's kit. Not to be changed."""
    kit = write_kit(demo_bundle, tmp_path_factory.mktemp("mac") / "kit")
    with pytest.MonkeyPatch.context() as monkeypatch:
        play(monkeypatch)
        assert run_kit(kit) == 0
    return kit / "result.npz"


def changed(
    result: Path,
    target: Path,
    about: Callable[[dict[str, Any]], None] | None = None,
    outputs: dict[str, np.ndarray] | None = None,
) -> Path:
    """The result with other outputs, and with what ``about`` changes of what is known of them."""
    with np.load(result) as file:
        entries = {name: file[name] for name in file.files}
    known = json.loads(entries.pop("about").tobytes())
    if about is not None:
        about(known)
    entries.update(outputs or {})
    entries["about"] = np.frombuffer(json.dumps(known).encode(), np.uint8)
    np.savez(target, **entries)
    return target


def test_what_a_kit_holds(demo_bundle: Path, tmp_path: Path) -> None:
    kit = write_kit(demo_bundle, tmp_path / "kit")
    assert kit == tmp_path / "kit"
    names = {path.name for path in kit.iterdir()}
    assert names == {"README.md", "expected.npz", "inputs.npz", "kit.json", "model.mlpackage", "runner.pyz"}
    text = (kit / "README.md").read_text()
    assert "python -m pip install coremltools numpy\npython runner.pyz\n" in text
    assert "vitedge kit import BUNDLE result.npz" in text
    with np.load(kit / "inputs.npz") as file:
        assert file["model.mlpackage"].shape == (6, 3, 32, 32)
        assert file["model.mlpackage"].dtype == np.float32


def test_the_results_of_a_mac_are_checked_here_and_sealed(bundle: Path, mac_result: Path) -> None:
    found = import_result(bundle, mac_result)
    assert found.passed
    (report,) = found.parity
    assert (report.artifact, report.runtime, report.images) == ("model.mlpackage", "coreml", 6)
    assert report.outputs[0].relative_error <= 2e-5
    assert report.machine["name"] == "stand-in"
    assert report.machine["compute_units"] == "ALL"
    assert float(report.machine["median_ms"]) > 0
    manifest = read_manifest(bundle)
    assert manifest.parity[-1] == report
    assert check_files(bundle, manifest) == found.files == 8
    again = validate(bundle)
    assert again.passed
    assert again.parity[-1] == report


def test_the_same_machine_replaces_what_it_said_before(
    bundle: Path, mac_result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(read_manifest(bundle).parity)
    import_result(bundle, mac_result)
    measured = replace(read_manifest(bundle), latency=BenchReport(()))
    reseal(bundle, measured)  # the manifest has another seal now, the artifacts are the same
    import_result(bundle, mac_result)
    assert len(read_manifest(bundle).parity) == before + 1

    def rename(about: dict[str, Any]) -> None:
        about["machine"]["name"] = "another"

    import_result(bundle, changed(mac_result, tmp_path / "other.npz", about=rename))
    assert len(read_manifest(bundle).parity) == before + 2


def test_the_conclusion_is_not_taken_from_the_mac(bundle: Path, mac_result: Path, tmp_path: Path) -> None:
    with np.load(mac_result) as file:
        values = file[NAME]
    for change, words in ((values * 1.01, "is off by"), (values * np.nan, "holds NaN")):
        found = import_result(bundle, changed(mac_result, tmp_path / "bad.npz", outputs={NAME: change}))
        assert not found.passed
        assert words in found.parity[0].reason
        assert read_manifest(bundle).parity[-1] == found.parity[0] or "NaN" in words
        assert not read_manifest(bundle).parity[-1].passed
        assert not validate(bundle).passed


@pytest.mark.parametrize(
    ("recipe", "shape", "pillow"),
    [
        (ExportRecipe(formats=("coreml",), precision="fp16", input="uint8", image_count=3), (3, 3, 32, 32), True),
        (ExportRecipe(formats=("coreml",), precision="fp16", batch=2, image_count=3), (4, 3, 32, 32), False),
    ],
)
def test_images_and_batches_make_the_round_trip(
    recipe: ExportRecipe,
    shape: tuple[int, ...],
    pillow: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export(str(VIT), tmp_path / "bundle", recipe)
    kit = write_kit(tmp_path / "bundle", tmp_path / "kit")
    with np.load(kit / "inputs.npz") as file:
        assert file["model.mlpackage"].shape == shape
        assert file["model.mlpackage"].dtype == (np.uint8 if pillow else np.float32)
    assert ("pip install coremltools numpy pillow" in (kit / "README.md").read_text()) is pillow
    play(monkeypatch)
    assert run_kit(kit) == 0
    found = import_result(tmp_path / "bundle", kit / "result.npz")
    assert found.passed
    assert found.parity[0].outputs[0].centred_sqnr_db >= 40


def test_a_bundle_without_core_ml_has_no_kit(bundle: Path, tmp_path: Path, mac_result: Path) -> None:
    manifest = read_manifest(bundle)
    shutil.rmtree(bundle / "model.mlpackage")
    write_manifest(bundle, replace(manifest, artifacts=manifest.artifacts[:1]))
    with pytest.raises(BadRecipe, match="holds no Core ML package"):
        write_kit(bundle, tmp_path / "kit")
    with pytest.raises(BadRecipe, match="holds no Core ML package"):
        import_result(bundle, mac_result)
    assert not (tmp_path / "kit").exists()


def test_where_a_kit_is_not_written(bundle: Path, tmp_path: Path) -> None:
    kit = write_kit(bundle, tmp_path / "kit")
    with pytest.raises(OutputRefused, match="already there"):
        write_kit(bundle, kit)
    assert write_kit(bundle, kit, force=True) == kit
    (kit / "result.npz").write_text("precious")
    with pytest.raises(OutputRefused, match=r"result\.npz"):
        write_kit(bundle, kit, force=True)
    with pytest.raises(BadRecipe, match="lies in the bundle"):
        write_kit(bundle, bundle / "kit")
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    with pytest.raises(OutputRefused, match="is a bundle"):
        write_kit(bundle, other, force=True)
    assert validate(bundle).passed


def test_a_damaged_bundle_neither_gives_nor_takes(bundle: Path, tmp_path: Path, mac_result: Path) -> None:
    (bundle / "model.mlpackage" / "Manifest.json").write_text("{}")
    with pytest.raises(BundleDamaged):
        write_kit(bundle, tmp_path / "kit")
    with pytest.raises(BundleDamaged):
        import_result(bundle, mac_result)
    with pytest.raises(UnreadableArtifact, match="is not a bundle"):
        write_kit(tmp_path, tmp_path / "kit")


def _bundle(about: dict[str, Any]) -> None:
    about["bundle"] = "0" * 64


def _package(about: dict[str, Any]) -> None:
    name = next(iter(about["files"]))
    about["files"][name] = "0" * 64


def _inputs(about: dict[str, Any]) -> None:
    about["inputs"]["model.mlpackage"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "words"),
    [(_bundle, "another bundle"), (_package, "another model.mlpackage"), (_inputs, "from other inputs")],
)
def test_a_result_of_something_else_is_not_sealed(
    change: Callable[[dict[str, Any]], None], words: str, bundle: Path, mac_result: Path, tmp_path: Path
) -> None:
    before = read_manifest(bundle)
    with pytest.raises(CheckFailed, match=words):
        import_result(bundle, changed(mac_result, tmp_path / "other.npz", about=change))
    assert read_manifest(bundle) == before


def test_what_a_machine_says_of_itself_is_text(bundle: Path, mac_result: Path, tmp_path: Path) -> None:
    def say(about: dict[str, Any]) -> None:
        about["machine"] = {"name": "\x1b[31mred\n" + "x" * 999, "model": 3, "secret": "more"}

    (report,) = import_result(bundle, changed(mac_result, tmp_path / "odd.npz", about=say)).parity
    assert report.machine["name"].startswith("[31mredx")
    assert len(report.machine["name"]) < 200
    assert report.machine["model"] == ""
    assert "secret" not in report.machine


def _drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda about: about.__delitem__(key)


def _set(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda about: about.update(values)


def _run(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda about: about["runs"][0].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop("runs"), "runs is missing"),
        (_set(runs=[]), "lacks the outputs of model.mlpackage"),
        (_set(runs=[3]), "a run is no object"),
        (_set(format=2), "another format than 1"),
        (_set(machine=[]), "machine is missing or no dict"),
        (_set(files=None), "files is missing or no dict"),
        (_run(artifact="../other"), "which the kit does not have"),
        (_run(compute_units="GPU"), "which the kit does not have"),
        (_run(compute_units="CPU_ONLY"), "lacks CPU_ONLY/model.mlpackage/logits"),
        (_run(median_ms="fast"), "median_ms is no positive number"),
        (_run(load_seconds=float("inf")), "load_seconds is no positive number"),
        (lambda about: about["runs"].append(about["runs"][0]), "twice"),
    ],
)
def test_a_result_whose_text_is_wrong(
    change: Callable[[dict[str, Any]], None], words: str, bundle: Path, mac_result: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnreadableArtifact, match=words):
        import_result(bundle, changed(mac_result, tmp_path / "wrong.npz", about=change))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((5, 10), np.float32), "has shape"),
        (np.zeros((6, 10), np.float64), "not of float32"),
        (np.zeros((6, 10), np.float32, order="F"), "C order"),
        (np.zeros((60, 1000), np.float32), "larger than it can be"),
        (np.array([None] * 60, object).reshape(6, 10), "not of float32"),
    ],
)
def test_a_result_whose_outputs_are_wrong(
    values: np.ndarray, words: str, bundle: Path, mac_result: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnreadableArtifact, match=words):
        import_result(bundle, changed(mac_result, tmp_path / "wrong.npz", outputs={NAME: values}))


def member(name: str, content: bytes, method: int = zipfile.ZIP_STORED) -> Callable[[Path, Path], None]:
    """A result in which one member is another."""

    def write(mac_result: Path, target: Path) -> None:
        with zipfile.ZipFile(mac_result) as old, zipfile.ZipFile(target, "w", method) as new:
            for entry in old.namelist():
                new.writestr(entry, content if entry == name else old.read(entry))

    return write


def whole(content: bytes) -> Callable[[Path, Path], None]:
    def write(mac_result: Path, target: Path) -> None:
        target.write_bytes(content)

    return write


def shortened(mac_result: Path, target: Path) -> None:
    target.write_bytes(mac_result.read_bytes()[:-200])


def missing_file(mac_result: Path, target: Path) -> None:
    assert not target.exists()


def folder(mac_result: Path, target: Path) -> None:
    target.mkdir()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


HOSTILE: dict[str, Callable[[Path, Path], None]] = {
    "none": missing_file,
    "a folder": folder,
    "empty": whole(b""),
    "garbage": whole(b"\x00\xff" * 500),
    "too large": whole(bytes(20 << 20)),
    "shortened": shortened,
    "a bomb": member(f"{NAME}.npy", bytes(64 << 20), zipfile.ZIP_DEFLATED),
    "no text": member("about.npy", b"hello"),
    "text of megabytes": member(
        "about.npy", header(str({"descr": "|u1", "fortran_order": False, "shape": (2 << 20,)}))
    ),
    "a header for terabytes": member(
        f"{NAME}.npy", header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}")
    ),
    "a header of code": member(f"{NAME}.npy", header("__import__('os').system('true')")),
    "a header that never ends": member(f"{NAME}.npy", header("(" * 9000)),
    "a shape of texts": member(f"{NAME}.npy", header("{'descr': '<f4', 'fortran_order': False, 'shape': ('6', 10)}")),
    "text that nests": member(
        "about.npy", header(str({"descr": "|u1", "fortran_order": False, "shape": (100000,)})) + b"[" * 100000
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_sentence(name: str, bundle: Path, mac_result: Path, tmp_path: Path) -> None:
    before = read_manifest(bundle)
    target = tmp_path / "hostile.npz"
    HOSTILE[name](mac_result, target)
    with pytest.raises(UnreadableArtifact, match=r"hostile\.npz") as caught:
        import_result(bundle, target)
    assert len(str(caught.value).splitlines()) == 1
    assert read_manifest(bundle) == before

# SPDX-License-Identifier: Apache-2.0
"""The script that a kit carries to a Mac. Core ML itself is played by the stand-in of `mac`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vitedge.devices.mac_kit.mac import play, run_kit
from vitedge.devices.mac_kit import verify as kit_script
from vitedge.devices.mac_kit.kit import write_kit
from vitedge.parity.metrics import agrees, compare


@pytest.fixture(scope="module")
def written(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kit(demo_bundle, tmp_path_factory.mktemp("script") / "kit")


@pytest.fixture
def kit(written: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(written, tmp_path / "kit"))


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the facts of a result, and its outputs."""
    with np.load(path, allow_pickle=False) as file:
        outputs = {name: file[name] for name in file.files if name != "about"}
        return json.loads(file["about"].tobytes()), outputs


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr().err
    assert shown.startswith("runner.pyz: ")
    assert shown.count("\n") == 1
    return shown


@pytest.mark.skipif(sys.platform == "darwin", reason="on macOS it would run Core ML")
def test_on_another_system_it_says_so_in_one_sentence(kit: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "runner.pyz"], cwd=kit, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("runner.pyz: Core ML runs on macOS only, and this is ")
    assert (done.stderr.count("\n"), done.stdout) == (1, "")
    assert not (kit / "result.npz").exists()


def test_it_says_what_it_takes(kit: Path) -> None:
    done = subprocess.run(
        [sys.executable, "runner.pyz", "--help"], cwd=kit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--compute-units {ALL,CPU_ONLY,CPU_AND_GPU,CPU_AND_NE}" in done.stdout


def test_it_needs_nothing_of_vitedge(kit: Path) -> None:
    """Nor PyTorch; of what is not Python's own it reads its files with NumPy alone."""
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'PIL', 'coremltools')))\n"
        "sys.path.insert(0, 'runner.pyz'); from vitedge.devices.mac_kit import verify; from pathlib import Path\n"
        "assert 'runner.pyz' in verify.__file__\n"
        "kit = Path('.'); print(len(verify.check_files(kit, verify.json.loads((kit / 'kit.json').read_text()))))\n"
        "print(sorted(verify.arrays(kit / 'expected.npz')))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=kit, capture_output=True, text=True, check=False)
    assert done.stdout == "3\n['logits']\n", done.stderr


def test_it_runs_compares_times_and_writes(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = play(monkeypatch)
    assert run_kit(kit, "--compute-units", "CPU_AND_NE", "--compare-cpu") == 0
    assert [model.units for model in loaded] == ["CPU_AND_NE", "CPU_ONLY"]
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["package", "units", "output", "relative", "SQNR", "dB", "top-1", "median", "ms"]
    assert shown[1].split()[:3] == ["model.mlpackage", "CPU_AND_NE", "logits"]
    assert shown[1].split()[5] == "100.0%"
    assert shown[3] == "Every output is within the tolerance."
    assert "vitedge kit import BUNDLE result.npz" in shown[4]
    about, outputs = read(kit / "result.npz")
    assert sorted(outputs) == ["CPU_AND_NE/model.mlpackage/logits", "CPU_ONLY/model.mlpackage/logits"]
    assert all(values.shape == (6, 10) and values.dtype == np.float32 for values in outputs.values())
    assert about["machine"]["name"] == "stand-in"
    assert about["machine"]["model"] == "Mac0,0"
    assert about["machine"]["numpy"] == np.__version__
    assert [run["compute_units"] for run in about["runs"]] == ["CPU_AND_NE", "CPU_ONLY"]
    assert all(run["load_seconds"] > 0 and run["median_ms"] > 0 for run in about["runs"])
    assert about["files"] == json.loads((kit / "kit.json").read_text())["artifacts"][0]["files"]


def test_cpu_is_not_run_twice(kit: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded = play(monkeypatch)
    assert run_kit(kit, "--compute-units", "CPU_ONLY", "--compare-cpu", "--output", str(tmp_path / "here.npz")) == 0
    assert len(loaded) == 1
    assert (tmp_path / "here.npz").is_file()


@pytest.mark.parametrize("change", [lambda values: values * 1.001, lambda values: values * np.nan])
def test_what_misses_the_bar_is_written_all_the_same(
    change: Any, kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, lambda outputs: {name: change(values) for name, values in outputs.items()})
    assert run_kit(kit) == 4
    assert "NOT every output is within the tolerance." in capsys.readouterr().out
    assert (kit / "result.npz").is_file()


@pytest.mark.parametrize("name", ["inputs.npz", "expected.npz", "runner.pyz", "model.mlpackage/Manifest.json"])
def test_a_changed_file_is_refused(
    name: str, kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch)
    (kit / name).write_bytes((kit / name).read_bytes() + b" ")
    assert run_kit(kit) == 4
    assert f"{name} is not the file that was written into the kit" in refused(capsys)


def test_a_folder_that_is_no_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch)
    assert run_kit(tmp_path) == 2
    assert "is not a kit" in refused(capsys)


@pytest.mark.parametrize(("image", "module", "words"), [(False, "coremltools", "coremltools numpy\n"),
                                                        (True, "PIL", "coremltools numpy pillow\n")])  # fmt: skip
def test_a_missing_package_is_named_with_what_to_type(
    image: bool, module: str, words: str, kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch)
    listing = json.loads((kit / "kit.json").read_text())
    listing["artifacts"][0]["image"] = image
    (kit / "kit.json").write_text(json.dumps(listing))
    monkeypatch.setitem(sys.modules, module, None)
    assert run_kit(kit) == 3
    assert refused(capsys).endswith(f"is not installed; type: python -m pip install {words}")


def test_a_failure_of_core_ml_is_one_sentence(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(outputs: Any) -> Any:
        raise RuntimeError("Error in declaring network")

    play(monkeypatch, fail)
    assert run_kit(kit) == 5
    assert "Core ML failed to run model.mlpackage with ALL: Error in declaring network." in refused(capsys)
    play(monkeypatch, lambda outputs: {"other": outputs["logits"]})
    assert run_kit(kit) == 5
    assert "Core ML returned no logits" in refused(capsys)


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.5])
def test_its_figures_are_those_of_the_import(noise: float) -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(6, 10)).astype(np.float32)
    found = (expected + noise * rng.normal(size=(6, 10))).astype(np.float32)
    (parity,) = compare({"logits": expected}, {"logits": found})
    figures = kit_script.compare(expected, np.concatenate([found, found[:2]]))
    assert figures == pytest.approx((parity.relative_error, parity.centred_sqnr_db, parity.agreement))


def with_value(scores: np.ndarray, value: float) -> np.ndarray:
    """A copy whose first image has that score for its third class."""
    changed = scores.copy()
    changed[0, 2] = value
    return changed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("value", [None, np.nan, np.inf, -np.inf, 1e20])
def test_its_agreement_is_that_of_the_import(seed: int, value: float | None) -> None:
    """On ties within an image, on scores that are not finite on either side, and on random ones."""
    rng = np.random.default_rng(seed)
    expected = rng.integers(0, 3, (40, 5)).astype(np.float32)
    expected[20:] += rng.normal(size=(20, 5)).astype(np.float32) * np.float32(10.0) ** rng.integers(-9, 2, (20, 1))
    found = expected + rng.normal(size=expected.shape).astype(np.float32)
    pairs = [(expected, found), (expected, np.zeros_like(found)), (np.zeros_like(expected), found)]
    if value is not None:
        pairs += [(with_value(expected, value), found), (expected, with_value(found, value))]
    for wanted, got in pairs:
        (parity,) = compare({"logits": wanted}, {"logits": got})
        assert kit_script.compare(wanted, got)[2] == parity.agreement
        assert kit_script.agrees(wanted, got).tolist() == agrees(wanted, got).tolist()


def test_features_have_no_top1() -> None:
    assert kit_script.compare(np.eye(6), np.eye(6), scores=False) == (0.0, float("inf"), None)


def test_an_output_of_another_shape_has_no_figures() -> None:
    relative, decibels, agreement = kit_script.compare(np.ones((6, 10), np.float32), np.ones((6, 9), np.float32))
    assert np.isnan([relative, decibels]).all()
    assert agreement is None


def test_hardware_that_is_not_to_be_asked() -> None:
    assert isinstance(kit_script.sysctl("hw.no-such-name"), str)

# SPDX-License-Identifier: Apache-2.0
"""Of `doctor` and `trials`: check-ups of this machine, of a board, and of environments with a known breakage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.schemas import misfits
from tests.vitedge.devices import ssh_server
from tests.vitedge.devices.health.environments import explained, tried, with_packages
from vitedge.devices.fitting import fitting
from vitedge.devices.health.records import Checkup
from vitedge.devices.profiles import profiles
from vitedge.errors import BadRecipe, DeviceFailed
from vitedge.files.plain import to_dict
from vitedge.verbs import doctor as verb
from vitedge.verbs.doctor import HERE, THERE, doctor
from vitedge.verbs.trials import LIBRARIES, TRIALS

BOARD = "VITEDGE_TEST_BOARD"
"""Environment variable with the folder of programs of the Arm board in software."""
MODULE = "vitedge.verbs.trials"


def test_every_trial_has_a_name_and_says_what_it_needs() -> None:
    assert TRIALS.keys() == HERE.keys() == LIBRARIES.keys()
    assert not set(HERE.values()) & set(THERE.values())


@pytest.mark.parametrize("name", list(profiles()))
def test_a_profile_needs_its_exports_here_and_its_runtime_where_it_fits(name: str) -> None:
    here, there = verb._needed("ssh:board", name, (name,))
    profile = profiles()[name]
    assert here[0] == "torch"
    assert {"onnx", "coreml"} & set(here) == {"onnx", "coreml"} & set(profile.formats)
    assert set(there) <= set(THERE)
    assert ("trtexec" in there) == (profile.builder == "tensorrt")
    assert verb._needed("ssh:board", name, ("another",)) == (here, ())


def test_a_device_does_what_devices_do() -> None:
    assert verb._needed("ssh:board", "", ("cpu-arm",))[0] == ()
    assert "coreml" not in verb._needed("ssh:board", "", ("cpu-arm",))[1]
    assert "coreml" in verb._needed("ssh:mac", "", ("mac-m1", "mac"))[1]


def test_what_is_none_is_refused() -> None:
    with pytest.raises(BadRecipe, match="There is no profile 'toaster'"):
        doctor(profile="toaster")
    with pytest.raises(BadRecipe, match="choose from local"):
        doctor("toaster")


def test_breakages_of_exporting_are_found_and_explained(tmp_path: Path) -> None:
    packages = {
        "onnx": "raise TypeError('Descriptors cannot be created directly.')",
        "tensorrt_rtx": "raise ImportError('libtensorrt_rtx.so.1: cannot open shared object file')",
    }
    found = tried(with_packages(tmp_path, packages), "onnx", "tensorrt-rtx", module=MODULE)
    assert {one.state for one in found.values()} == {"broken"}
    why = {name: explained(one, name, protobuf="3")[0] for name, one in found.items()}
    assert why["onnx"] == "protobuf 3 does not fit the code that onnx was generated with"
    assert "libtensorrt_rtx.so.1" in why["tensorrt-rtx"]


@pytest.mark.slow
def test_breakages_of_what_pytorch_needs_are_found_and_explained(tmp_path: Path) -> None:
    packages = {
        "torchvision": "raise RuntimeError('operator torchvision::nms does not exist')",  # pytorch/pytorch#122494
        # apple/coremltools#2361
        "coremltools": "TensorType = dict\ndef convert(*a, **b):\n    raise RuntimeError('BlobWriter not loaded')",
    }
    found = tried(with_packages(tmp_path, packages), "torch", "trace", module=MODULE)
    assert {one.state for one in found.values()} == {"broken"}
    assert explained(found["torch"], "torch", torch="2.14", torchvision="0.1") == (
        "torch 2.14 and torchvision 0.1 are not of one build",
        "pip install --force-reinstall torch torchvision",
    )
    assert "native parts" in explained(found["trace"], "coremltools")[0]


def test_a_package_that_is_not_installed_is_absent(tmp_path: Path) -> None:
    gone = "raise ModuleNotFoundError(\"No module named 'onnx'\", name='onnx')"
    found = tried(with_packages(tmp_path, {"onnx": gone}), "onnx", module=MODULE)
    assert (found["onnx"].state, found["onnx"].error) == ("absent", "onnx")


@pytest.mark.slow
def test_nothing_of_this_machine_is_blamed() -> None:
    """The environment that the tests run in, everything that is installed in it."""
    told: list[str] = []
    result = doctor(progress=told.append)
    assert _bad(result) == {}
    assert not result.broken
    assert not result.missing
    assert {one.name for one in result.abilities if one.state == "works"} >= {
        "read checkpoints", "export onnx", "export coreml", "check coreml", "convert traces", "run onnxruntime",
    }  # fmt: skip
    assert result.fitting == fitting(result.identity)
    assert misfits("doctor", to_dict(result)) == []
    assert told == ["asking local …", "trying what runs on local …", "trying what exports here …"]


@pytest.mark.slow
def test_a_profile_that_fits_is_found_and_what_it_needs_works() -> None:
    result = doctor(profile="auto")
    assert result.profile == result.fitting[0]
    assert [(one.name, one.state, one.asked) for one in result.abilities] == [
        ("read checkpoints", "works", True), ("export onnx", "works", True), ("run onnxruntime", "works", True),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requirement", "trials", "module", "why"),
    [
        ("numpy==2.4.*", ("coreml", "mlprogram", "trace"), MODULE, "converts no traced model with NumPy 2.4"),
        ("onnxruntime==1.16.3", ("onnxruntime",), "vitedge.devices.health.trials", "was built for NumPy 1"),
    ],
)
def test_real_packages_that_do_not_fit(
    requirement: str, trials: tuple[str, ...], module: str, why: str, tmp_path: Path
) -> None:
    """The packages themselves, in front of those of this environment; vitedge's own exports pass with NumPy 2.4."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--target", str(tmp_path), requirement], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"pip install --no-deps '{requirement}'")
    found = tried(tmp_path, *trials, module=module)
    *sound, last = (found[name] for name in trials)
    assert {one.state for one in sound} <= {"works"}
    assert last.state == "broken"
    assert why in explained(last, "onnxruntime", numpy="2.4.6", coremltools="9.0")[0]


@pytest.mark.slow
@pytest.mark.skipif(ssh_server.is_missing(), reason=ssh_server.INSTALL)
def test_a_device_over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's Python as the far end."""
    with ssh_server.serving(tmp_path / "server", path=str(Path(sys.executable).parent)) as server:
        monkeypatch.setenv("PATH", f"{server.bin}:{os.environ['PATH']}")
        monkeypatch.setenv("VITEDGE_DEVICE_PYTHON", sys.executable)
        result = doctor("ssh:board")
        assert _bad(result) == {}
        assert {one.name: one.state for one in result.abilities}["run onnxruntime"] == "works"
        with pytest.raises(DeviceFailed, match="ssh-copy-id"):
            doctor("ssh:stranger")


@pytest.mark.slow
@pytest.mark.skipif(ssh_server.is_missing(), reason=ssh_server.INSTALL)
@pytest.mark.skipif(BOARD not in os.environ, reason=f"make a board, and set {BOARD} to its folder of programs")
def test_nothing_of_an_arm_board_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ssh_server.serving(tmp_path / "server", path=os.environ[BOARD]) as server:
        monkeypatch.setenv("PATH", f"{server.bin}:{os.environ['PATH']}")
        result = doctor("ssh:board", "auto")
    assert _bad(result) == {}
    assert not result.missing
    assert result.identity["architecture"] == "aarch64"
    assert result.profile.startswith(("cpu-arm", "raspberry-pi"))
    assert {one.name: one.state for one in result.abilities}["run onnxruntime"] == "works"


def _bad(result: Checkup) -> dict[str, str]:
    return {one.name: f"{one.detail} {one.error}" for one in result.abilities if one.state == "broken"}

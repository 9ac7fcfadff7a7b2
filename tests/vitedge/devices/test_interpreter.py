# SPDX-License-Identifier: Apache-2.0
"""The Python that is chosen on a device; each of them here is this machine's, with packages of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vitedge.devices.shell_transport import PROGRAMS, Transport
from vitedge.devices import runner
from vitedge.devices.interpreter import VARIABLE, Interpreter, find_interpreter
from vitedge.errors import MissingBackend

NUMPY = {"numpy": "__version__ = '2.0'\nndarray = float32 = dtype = None\n"}
ORT = {"onnxruntime": "__version__ = '1.17'\ndef get_available_providers(): return ['CPUExecutionProvider']\n"}


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """A device without any Python."""
    monkeypatch.delenv(VARIABLE, raising=False)
    return Transport(tmp_path / "far", programs=PROGRAMS)


@pytest.fixture
def find(far: Transport, tmp_path: Path) -> Callable[[], Interpreter]:
    program = str(runner.write(tmp_path / "the runner.pyz"))
    return lambda: find_interpreter(far.run, program, far.name)


def test_none_is_told_with_the_places_that_were_looked_at(find: Callable[[], Interpreter]) -> None:
    with pytest.raises(MissingBackend, match=r"it was looked for at ~/\.vitedge/bin/python, .* \(set VITEDGE_DEVICE"):
        find()


def test_the_users_environments_come_before_the_systems(far: Transport, find: Callable[[], Interpreter]) -> None:
    (far.folder / "bin" / "python3").symlink_to(far.python("system", {**NUMPY, **ORT}))
    assert find().program == f"{far.folder}/bin/python3"
    mine = far.python("venv/bin/python", {**NUMPY, **ORT})
    assert find().program == str(mine)
    found = find()
    assert found.facts["providers"] == ["CPUExecutionProvider"]
    assert found.versions == {"numpy": "2.0", "onnxruntime": "1.17"}
    assert found.refusal("onnxruntime", "stand-in") == ""
    assert found.refusal("openvino", "stand-in") == (
        f"OpenVINO is not installed on stand-in; there type: {mine} -m pip install openvino"
    )


def test_one_with_a_runtime_comes_before_one_without(far: Transport, find: Callable[[], Interpreter]) -> None:
    bare = far.python(".vitedge/bin/python", NUMPY)
    assert find().program == str(bare)
    better = far.python("venv/bin/python", {**NUMPY, **ORT})
    assert find().program == str(better)


def test_one_without_numpy_is_told_with_what_to_type(far: Transport, find: Callable[[], Interpreter]) -> None:
    bare = far.python(".venv/bin/python", {})
    with pytest.raises(MissingBackend, match=rf"^{bare} on stand-in has no NumPy; there type: python3 -m venv"):
        find()


def test_one_that_is_too_old_says_so_itself(far: Transport, find: Callable[[], Interpreter]) -> None:
    old = far.python("venv/bin/python", NUMPY, version="3, 6, 9")
    with pytest.raises(MissingBackend, match=rf"{old} says: Python 3\.6 is too old, vitedge needs 3\.8 or newer\.$"):
        find()


def test_a_library_that_cannot_be_imported_is_told_with_its_reason(
    far: Transport, find: Callable[[], Interpreter]
) -> None:
    broken = {"onnxruntime": "raise ImportError('libcudart.so.12: cannot open shared object file')"}
    far.python("venv/bin/python", {**NUMPY, **broken})
    assert find().refusal("onnxruntime", "stand-in") == (
        "onnxruntime is installed on stand-in but cannot be imported: libcudart.so.12: cannot open shared object file."
    )


@pytest.mark.parametrize(
    "code", ["import missing_part", "raise SystemError('no\\nway')", "1 / 0", "import sys; sys.exit(3)"]
)
def test_a_library_whose_import_fails_takes_nothing_else_along(
    code: str, far: Transport, find: Callable[[], Interpreter]
) -> None:
    far.python("venv/bin/python", {**NUMPY, **ORT, "openvino": code})
    found = find()
    assert found.refusal("onnxruntime", "stand-in") == ""
    assert found.refusal("openvino", "stand-in").startswith("openvino is installed on stand-in but cannot be imported")


def test_one_that_prints_and_warns_is_understood(far: Transport, find: Callable[[], Interpreter]) -> None:
    loud = "import sys\nprint('17 /bin/sh')\nprint('a warning', file=sys.stderr)\n__version__ = '1.2'\n"
    path = far.python("venv/bin/python", {**NUMPY, "openvino": loud})
    assert find().program == str(path)
    assert find().versions["openvino"] == "1.2"


def test_the_variable_names_the_only_one_that_is_tried(
    far: Transport, find: Callable[[], Interpreter], monkeypatch: pytest.MonkeyPatch
) -> None:
    far.python("venv/bin/python", {**NUMPY, **ORT})
    strange = far.python("it's $(touch hurt) mine/python", NUMPY)
    for given in (str(strange), "~/it's $(touch hurt) mine/python"):
        monkeypatch.setenv(VARIABLE, given)
        assert find().program == str(strange)
    monkeypatch.setenv(VARIABLE, "/nowhere/python")
    with pytest.raises(MissingBackend, match=r"it was looked for at /nowhere/python \(set VITEDGE_DEVICE_PYTHON"):
        find()
    assert not (far.home / "hurt").exists()


def test_a_mac_runs_core_ml_and_no_other_does(far: Transport, find: Callable[[], Interpreter]) -> None:
    far.python("venv/bin/python", {**NUMPY, "coremltools": "__version__ = '9.0'\n"})
    here = find()
    assert here.refusal("coreml", "stand-in").startswith(f"Core ML does not run on {here.facts['system']}: ")
    mac = Interpreter(here.program, {**here.facts, "system": "Darwin"})
    assert mac.refusal("coreml", "stand-in").endswith(f"there type: {here.program} -m pip install pillow")

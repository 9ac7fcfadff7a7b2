# SPDX-License-Identifier: Apache-2.0
"""The one file that runs on a device: what is in it, and that nothing else is needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.test_layout import ROOT
from tests.vitedge.devices.shell_transport import Transport
from vitedge.devices import runner
from vitedge.devices.interpreter import RUNTIMES
from vitedge.devices.messages import packed, unpacked
from vitedge.registry import RUNTIMES as TABLE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OTHERS = {"coremltools", "PIL", "numpy", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}
"""What a module there may import beside the standard library."""
UNUSED = {("runtimes/onnxruntime.py", "onnx")}
"""What it may import for requests that no device gets: comparing layers."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return runner.write(tmp_path / "runner.pyz")


def imported(module: str) -> Iterator[str]:
    """Every name that a module imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / "vitedge" / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_there(name: str) -> bool:
    """Whether the file has an import of ours: a module, or a name of one."""
    parts = name.split(".")[1:]
    there = {module.removesuffix(".py").removesuffix("/__init__") for module in runner.MODULES}
    return "/".join(parts) in there or "/".join(parts[:-1]) in there


@pytest.mark.parametrize("module", runner.MODULES)
def test_modules_are_of_python_38_and_import_only_each_other(module: str) -> None:
    ast.parse((ROOT / "vitedge" / module).read_text(encoding="utf-8"), feature_version=(3, 8))
    for name in imported(module):
        top = name.split(".")[0]
        if (module, name) in UNUSED:
            continue
        assert is_there(name) if top == "vitedge" else top in {*sys.stdlib_module_names, *OTHERS}, name


def test_what_the_registry_loads_is_there() -> None:
    for name in set(RUNTIMES) - {"coreml"}:
        assert f"{TABLE[name].module.replace('.', '/').removeprefix('vitedge/')}.py" in runner.MODULES


ALONE = "guide/infer.py"
"""It lies in bundles, and runs where vitedge is not."""


def test_the_linter_holds_exactly_these_to_python_38() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    listed = {name: version for name, version in settings["per-file-target-version"].items() if version == "py38"}
    assert sorted(listed) == sorted(f"vitedge/{name}" for name in (*runner.MODULES, ALONE))


def test_a_python_of_any_age_can_read_that_it_is_too_old(program: Path) -> None:
    """Python 2 among them, in which print is a statement; nothing here runs one."""
    main = zipfile.ZipFile(program).read("__main__.py").decode()
    tree = ast.parse(main, feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.AnnAssign, ast.Await))]
    assert "print" not in main


def test_equal_modules_make_an_equal_file(tmp_path: Path, program: Path) -> None:
    assert runner.write(tmp_path / "again.pyz").read_bytes() == program.read_bytes()
    assert program.stat().st_size < 100_000


def ran(command: list[str | Path], folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, cwd=folder, check=False)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python with NumPy and ONNX Runtime and nothing else of this environment."""
    return Transport(tmp_path / "far").python("python", ["numpy", "onnxruntime"])


def test_about_needs_no_vitedge_and_no_numpy(program: Path, tmp_path: Path) -> None:
    done = ran([sys.executable, "-I", "-S", program, "about"], tmp_path)
    assert done.stderr == ""
    facts = json.loads(done.stdout)
    assert facts["versions"] == {}
    assert facts["broken"] == {}
    assert facts["processors"] >= facts["cores"] >= 1


def test_it_serves_where_nothing_of_vitedge_is(program: Path, python: Path, tmp_path: Path) -> None:
    requests = [
        {"do": "load", "model": {"label": "it", "runtime": "onnxruntime", "source": str(tmp_path / "missing.onnx")}},
        {"do": "end"},
    ]
    text = "".join(json.dumps(request) + "\n" for request in requests)
    done = ran([python, program, "serve"], tmp_path, text)
    assert done.returncode == 0, done.stderr
    refused, ended = (json.loads(line) for line in done.stdout.splitlines())
    assert "missing.onnx" in refused["message"]
    assert ended["peak_memory_mb"] > 1
    where = f"import sys; sys.path.insert(0, {str(program)!r}); import vitedge.latency.worker as w; print(w.__file__)"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert found.startswith(str(program))


def test_without_a_word_it_looks_for_a_kit(program: Path, tmp_path: Path) -> None:
    done = ran([sys.executable, "-I", program], tmp_path)
    assert done.returncode == (2 if sys.platform == "darwin" else 3)
    assert done.stderr.startswith("runner.pyz: ")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, np.bool_, ">f4"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_arrays_survive_the_way(dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    back = unpacked(json.loads(json.dumps(packed({"x": array}))))["x"]
    assert back.shape == shape
    assert back.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(back, array)

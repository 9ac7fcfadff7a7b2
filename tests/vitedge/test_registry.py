# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import importlib
import inspect
import platform
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import vitedge
from vitedge import registry
from vitedge.errors import BadRecipe, MissingBackend
from vitedge.export.formats import CHECKERS, LAYERS, LOWERINGS
from vitedge.registry import DEVICES, RUNTIMES, Part, Table
from vitedge.runtimes.base import Runtime

PACKAGE = Path(vitedge.__file__).parent
TABLES = {"lowerings": LOWERINGS, "checkers": CHECKERS, "layers": LAYERS, "runtimes": RUNTIMES, "devices": DEVICES}
BUILT = [(table, name) for table, parts in TABLES.items() for name, part in parts.items() if part.module]


def public_names(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


@pytest.mark.parametrize(("table", "name"), BUILT)
def test_every_part_is_a_module_of_ours(table: str, name: str) -> None:
    part = TABLES[table][name]
    assert importlib.import_module(part.module).__name__ == part.module


@pytest.mark.parametrize("table", TABLES)
def test_parts_of_a_table_have_the_same_public_names(table: str) -> None:
    verbs = {
        name: public_names(importlib.import_module(part.module)) for name, part in TABLES[table].items() if part.module
    }
    assert len({frozenset(names) for names in verbs.values()}) == 1, verbs


def test_every_result_of_a_verb_has_a_renderer() -> None:
    """A record that shows itself finds it by its name."""
    for name, part in registry.RENDERERS.items():
        render = importlib.import_module(part.module).render
        record, *options = inspect.signature(render).parameters.values()
        assert record.annotation == name
        assert [one.name for one in options if one.default is inspect.Parameter.empty] == ["as_json"]


def declared(protocol: type, method: str) -> inspect.Signature:
    """The signature of a method as the source has it: Python 3.10 replaces the constructor of a protocol."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(protocol))).body
    assert isinstance(found, ast.ClassDef)
    (node,) = (node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == method)
    names: dict[str, object] = {}
    exec(f"from __future__ import annotations\n{ast.unparse(node)}", names)
    return inspect.signature(names[method])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_have_the_members_of_the_protocol_and_no_others(name: str) -> None:
    found = importlib.import_module(RUNTIMES[name].module).Runtime
    methods = {"__enter__", "__exit__", "run", "describe"}
    members = {key: value for kind in reversed(found.__mro__[:-1]) for key, value in vars(kind).items()}
    assert {key for key, value in members.items() if callable(value) and (key in methods or key[0] != "_")} == methods
    for method in ("__init__", *methods):
        ours, protocol = inspect.signature(getattr(found, method)), declared(Runtime, method)
        assert list(ours.parameters) == list(protocol.parameters)
        assert [p.default for p in ours.parameters.values()] == [p.default for p in protocol.parameters.values()]


def test_a_missing_package_is_answered_with_what_to_type() -> None:
    table: Table = {
        "openvino": Part("OpenVINO", "vitedge.errors", ("no_such_package",), "pip install 'vitedge[openvino]'")
    }
    with pytest.raises(MissingBackend) as caught:
        registry.load(table, "openvino")
    assert str(caught.value) == (
        "OpenVINO needs no_such_package, which is not installed; type: pip install 'vitedge[openvino]'"
    )
    assert caught.value.exit_code == 3


def test_a_package_that_is_there_but_broken_is_not_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_backend.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingBackend, match=r"a_package_that_is_not_there.*pip install vitedge$"):
        registry.load({"broken": Part("Broken", "broken_backend")}, "broken")


def test_a_fault_of_our_own_is_not_blamed_on_the_installation() -> None:
    with pytest.raises(ModuleNotFoundError):
        registry.load({"ours": Part("Ours", "vitedge.no_such_module")}, "ours")


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BadRecipe, match=r"'tflite'.*onnx, coreml"):
        registry.load(LOWERINGS, "tflite")


def test_hardware_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingBackend("This machine has no NVIDIA driver.")

    monkeypatch.setattr("vitedge.runtimes.cuda.gpu", missing)
    assert registry.refusal(RUNTIMES, "tensorrt") == "This machine has no NVIDIA driver."
    assert not registry.works_here(RUNTIMES, "tensorrt")
    monkeypatch.setattr("vitedge.runtimes.cuda.gpu", lambda: None)
    assert registry.works_here(RUNTIMES, "tensorrt") == (platform.system() in ("Linux", "Windows"))


def test_a_part_of_another_system_says_what_to_do_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(MissingBackend, match=r"Linux: it runs on a Mac.*vitedge validate BUNDLE"):
        registry.load(RUNTIMES, "coreml")
    assert not registry.works_here(RUNTIMES, "coreml")
    assert registry.works_here({"here": replace(RUNTIMES["coreml"], systems=("Linux",))}, "here")


@pytest.mark.parametrize("dotted", ["vitedge.errors:NoSuch", "no_such_module:f", "vitedge.errors", ":f", ""])
def test_function_that_does_not_exist_is_refused(dotted: str) -> None:
    with pytest.raises(ValueError, match=r"is not a function written package.module:name"):
        registry.function(dotted)


def test_function_is_found_and_a_constant_is_not_one() -> None:
    assert registry.function("vitedge.registry:load") is registry.load
    with pytest.raises(ValueError, match="is not a function"):
        registry.function("vitedge.registry:RUNTIMES")


def test_versions_leave_out_what_is_not_installed() -> None:
    found = registry.versions(("numpy", "no-such-package"))
    assert list(found) == ["numpy"]
    assert found["numpy"][0].isdigit()


def test_the_environment_names_what_wrote_a_bundle() -> None:
    found = registry.environment()
    assert {"torch", "onnx", "numpy", "python", "platform"} <= found.keys()
    assert found["platform"] == f"{platform.system()} {platform.machine()}"


def test_only_the_registry_imports_lazily() -> None:
    sources = [*PACKAGE.rglob("*.py"), *(PACKAGE / "export").rglob("*.py"), *(PACKAGE / "calibration").rglob("*.py")]
    users = {path.name for path in sources if "importlib.import_module" in path.read_text(encoding="utf-8")}
    assert users == {"registry.py"}


@pytest.mark.parametrize(
    "module", ["vitedge.registry", "vitedge.latency.interleave", "vitedge.latency.worker", "vitedge.devices.profiles"]
)
def test_nothing_heavy_is_imported_before_it_is_asked_for(module: str) -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime', 'coremltools', 'timm'}"
    script = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert done.stdout.strip() == "[]"


def test_the_onnx_runtime_imports_no_pytorch() -> None:
    script = "import sys, vitedge.runtimes.onnxruntime; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert done.stdout.strip() == "False"

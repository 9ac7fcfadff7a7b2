# SPDX-License-Identifier: Apache-2.0
"""The house keeps its shape: one lazy boundary, small files, nothing forgotten in the wheel.

The floors are a contract of import-linter in pyproject.toml, which `make test` runs.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent

HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "coremltools", "timm", "numpy")


def sources() -> dict[str, Path]:
    found = {}
    for folder, package in (
        ("vitedge", "vitedge"),
        ("export", "vitedge.export"),
        ("calibration", "vitedge.calibration"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if parts[0] in ("export", "calibration") and folder == "vitedge":
                continue  # the links; the folders themselves are read below
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


SOURCES = sources()


def imports(name: str) -> set[str]:
    """Modules of ours that a module imports, at its top or anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {module for module in found if module.split(".")[0] == "vitedge" and module != name}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs the contracts of pyproject.toml over a tree."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_a_planted_upward_import_breaks_the_floors(tmp_path: Path) -> None:
    """`make test` runs the contracts over the tree itself; this shows that they can fail."""
    for name in ("vitedge", "export", "calibration"):
        shutil.copytree(
            ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.pth")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    sound = lint(tmp_path)
    assert sound.returncode == 0, sound.stdout
    with (tmp_path / "export" / "formats.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom vitedge.verbs.export import STAGES as STAGES\n")
    broken = lint(tmp_path)
    assert broken.returncode == 1
    assert "vitedge.export is not allowed to import vitedge.verbs" in broken.stdout


def test_importlib_is_in_the_registry_alone() -> None:
    users = {name for name, path in SOURCES.items() if "import importlib" in path.read_text(encoding="utf-8")}
    assert users == {"vitedge.registry"}


def test_only_render_prints() -> None:
    """And the script of the verify kit, which is copied to a machine that has nothing else of vitedge."""
    for name, path in SOURCES.items():
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        consoles = [call for call in calls if ast.unparse(call.func) in ("Console", "sys.stdout.write")]
        assert name.startswith("vitedge.render.") or name == "vitedge.devices.mac_kit.verify" or not prints
        assert name == "vitedge.render.screen" or not consoles


def test_the_script_of_the_verify_kit_stands_alone() -> None:
    text = SOURCES["vitedge.devices.mac_kit.verify"].read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 8))
    assert not imports("vitedge.devices.mac_kit.verify")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_files_and_functions_are_small(name: str) -> None:
    text = SOURCES[name].read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 80, node.name


def modules_with_tests() -> set[str]:
    """Modules whose name a test file has, or names between backticks in the first line of its docstring.

    A name there is looked up in the package that the test file's folder mirrors, then in the packages around that one.
    """
    found = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.relative_to(ROOT / "tests").parent.parts
        package = folder if folder[:1] == ("vitedge",) else ("vitedge", *folder)
        found.add(".".join((*package, path.stem.removeprefix("test_"))))
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for name in re.findall(r"`([\w.]+)`", docstring.partition("\n")[0]):
            around = (".".join((*package[:depth], name)) for depth in range(len(package), -1, -1))
            found.add(next((module for module in around if module in SOURCES), name))
    return found


def test_every_module_has_its_tests() -> None:
    tested = modules_with_tests()
    assert "vitedge.recipe.export" in tested  # by the name of its file
    assert "vitedge.mlprogram.placement" in tested  # by the first line of another
    large = {name for name, path in SOURCES.items() if path.read_text(encoding="utf-8").count("\n") > 60}
    assert not sorted(large - tested)


def test_every_subpackage_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    packages = {name for name, path in SOURCES.items() if path.name == "__init__.py"}
    assert set(listed) == packages


def test_the_links_point_where_they_should() -> None:
    for name in ("export", "calibration"):
        assert (ROOT / "vitedge" / name).readlink() == Path("..") / name


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["profiles"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys; from vitedge.cli.main import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.rstrip().endswith("HEAVY []")

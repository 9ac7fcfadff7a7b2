# SPDX-License-Identifier: Apache-2.0
"""The wheel and the sdist hold what they should, and the wheel works where the repository is not."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from tests.test_layout import SOURCES
from vitedge.registry import RUNTIMES

ROOT = Path(__file__).parent.parent
FOLDERS = ("vitedge", "export", "calibration")
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
LARGEST = 4_000_000
"""Bytes of the wheel; the demo's three models are 1.7 MB of it."""

pytestmark = pytest.mark.slow


def run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checkout(folder: Path, *, links: bool) -> Path:
    """Copies what a build reads; links can be what Git for Windows makes of them, files of text."""
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    (folder / "tests").mkdir()
    (folder / "tests" / "test_nothing.py").write_text("", encoding="utf-8")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for link in () if links else ("export", "calibration"):
        (folder / "vitedge" / link).unlink()
        (folder / "vitedge" / link).write_text(f"../{link}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["links", "no links"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    source = checkout(folder / "checkout", links=request.param)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source)
    return folder / "dist"


def run_elsewhere(folder: Path, *command: object) -> str:
    """Runs a command in another folder, without the search path that may lead to the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel_of(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def test_the_tools_of_the_trade_find_nothing(built: Path) -> None:
    files = sorted(built.iterdir())
    assert [path.suffix for path in files] == [".whl", ".gz"]
    assert run(sys.executable, "-m", "twine", "check", "--strict", *files).count("PASSED") == 2
    assert run(sys.executable, "-m", "check_wheel_contents", wheel_of(built)).rstrip().endswith("OK")


def test_the_wheel_holds_all_modules_with_their_data_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as archive:
        names = {PurePosixPath(name) for name in archive.namelist()}
    assert {name.parts[0] for name in names} == {"vitedge", f"{wheel_of(built).name.split('-py3')[0]}.dist-info"}
    modules = {name for name in names if name.suffix == ".py"}
    assert len(modules) == len(SOURCES)
    data = {str(name) for name in names - modules if name.parts[0] == "vitedge"}
    kept = {path.relative_to(ROOT) for top in FOLDERS for path in (ROOT / top).rglob("*") if path.is_file()}
    tracked = {path for path in kept if path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts}
    assert len(tracked) > 7
    assert {name.removeprefix("vitedge/") for name in data} == {
        path.as_posix().removeprefix("vitedge/") for path in tracked
    }
    assert wheel_of(built).stat().st_size < LARGEST


def test_the_sdist_holds_files_that_every_system_can_unpack(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if not (member.isfile() or member.isdir())] == []
    tops = {PurePosixPath(member.name).parts[1] for member in members if "/" in member.name}
    assert tops == {*FOLDERS, *FILES, "PKG-INFO", "setup.cfg", "vitedge.egg-info"}


def test_the_metadata_is_complete(built: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        told = email.message_from_bytes(archive.read(name))
    assert (told["Name"], told["License-Expression"], told["License-File"]) == ("vitedge", "Apache-2.0", "LICENSE")
    assert (told["Requires-Python"], told["Description-Content-Type"]) == (">=3.10", "text/markdown")
    assert told["Summary"]
    assert told["Keywords"]
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)} <= {*told.get_all("Classifier")}
    extras = {name for part in RUNTIMES.values() for name in re.findall(r"vitedge\[([\w-]+)\]", part.install)}
    assert extras
    assert extras <= {*told.get_all("Provides-Extra")}
    assert told.get_payload().startswith("# vitedge")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with pip alone, which finds the packages of this one."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    found = folder / "bin" / "python"
    packages = Path(run(found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for old in packages.glob("setuptools*"):  # Python 3.11 and older put one there, which knows no licence expressions
        shutil.rmtree(old)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return found


def test_the_wheel_works_where_the_repository_is_not(built: Path, python: Path, tmp_path: Path) -> None:
    pip = (python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall")
    run_elsewhere(tmp_path, *pip, wheel_of(built))
    shown = run_elsewhere(tmp_path, python, "-c", "import vitedge; print(vitedge.__file__)")
    place = Path(shown.strip()).parent
    assert place.is_relative_to(python.parents[1])
    command = python.with_name("vitedge")
    assert "export" in run_elsewhere(tmp_path, command, "--help")
    assert "onnx" in run_elsewhere(tmp_path, command, "profiles")
    told = run_elsewhere(tmp_path, command, "inspect", place / "demo" / "vit-digits.pth", "--json")
    assert json.loads(told)["spec"]["family"] == "vit"


def test_an_editable_install_needs_no_links(python: Path, tmp_path: Path) -> None:
    source = checkout(tmp_path / "checkout", links=False)
    pip = (python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    run_elsewhere(tmp_path, *pip, "--editable", source)
    shown = run_elsewhere(tmp_path, python, "-c", "import vitedge.export.formats as found; print(found.__file__)")
    assert Path(shown.strip()) == source / "export" / "formats.py"

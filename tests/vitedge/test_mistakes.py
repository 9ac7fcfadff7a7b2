# SPDX-License-Identifier: Apache-2.0
"""Mistakes of users: each is answered by a sentence whose advice, taken out of the sentence and followed, works.

Nothing of the advice is written here: a regular expression takes it out of what the command said, and one of four ways
follows it. Words in capitals, such as CHECKPOINT, stand for a file of the reader's own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.bad_files import VIT
from tests.vitedge.cli.command import Command, Outcome
from tests.vitedge.render.samples import BENCH
from vitedge import registry
from vitedge.demo import assets
from vitedge.export.formats import CHECKERS, LOWERINGS
from vitedge.files.bundle import read_manifest, write_manifest
from vitedge.files.plain import to_dict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent.parent
OWN = {
    "CHECKPOINT": "vit.pth",
    "LABELLED_DIR": "val",
    "BUNDLE": "made",
    "DIR": "photos",
    "POINTS": "60",
    "N": "4",
    "F": "0.5",
    "R": "1",
}
"""Words of advice that stand for something of the reader's, to what this reader has."""
Follow = Callable[[str, str], str]
"""From what was typed and the advice that was found to what is typed next."""


def added(typed: str, advice: str) -> str:
    """The advice is an option to add."""
    return f"{typed} {advice}"


def alone(typed: str, advice: str) -> str:
    """The advice is a whole command."""
    del typed
    return advice


def left_out(typed: str, advice: str) -> str:
    """The advice names an option to leave out, with its value if it has one."""
    found = re.sub(rf" {re.escape(advice)}( (?!-)\S+)?", "", typed)
    assert found != typed
    return found


def instead_of(wrong: str) -> Follow:
    """The advice is what to type in place of something."""

    def replaced(typed: str, advice: str) -> str:
        assert wrong in typed
        return typed.replace(wrong, advice)

    return replaced


@dataclass(frozen=True)
class Mistake:
    """One wrong command."""

    typed: str
    advice: str
    """A regular expression whose group is the advice."""
    follow: Follow
    code: int = 2
    own: Mapping[str, str] = field(default_factory=lambda: OWN)
    """What the words in capitals stand for."""


QUICK = {
    "a checkpoint's name with a typo": Mistake("inspect vit.pht", r"did you mean (\S+)\?", instead_of("vit.pht")),
    "a bundle for a checkpoint": Mistake("inspect onnx", r"made from, (\S+)\.$", instead_of("onnx")),
    "a manifest for a checkpoint": Mistake(
        "inspect onnx/manifest.json", r"made from, (\S+)\.$", instead_of("onnx/manifest.json")
    ),
    "an artifact for a checkpoint": Mistake(
        "inspect onnx/model.onnx", r"made from, (\S+)\.$", instead_of("onnx/model.onnx")
    ),
    "a saved run for a checkpoint": Mistake("inspect run.json", r"wrote; vitedge (.+) shows it", alone),
    "a saved run for a bundle": Mistake("validate run.json", r"wrote; vitedge (.+) shows it", alone),
    "a manifest for its bundle": Mistake(
        "validate onnx/manifest.json", r"its folder, (\S+)\.$", instead_of("onnx/manifest.json")
    ),
    "a manifest to be counted": Mistake(
        "evaluate onnx/manifest.json --images val", r"its folder, (\S+)\.$", instead_of("onnx/manifest.json")
    ),
    "a folder of several checkpoints": Mistake("inspect weights", r"such as (\S+)\.$", instead_of("weights")),
    "a folder with a space in its name": Mistake("inspect 'my models'", r"such as (.+)\.$", instead_of("'my models'")),
    "an option with a typo": Mistake("inspect vit.pth --jsn", r"(?:mean|options:) (--\w+)", instead_of("--jsn")),
    "a command with a typo": Mistake("inspct vit.pth", r"mean[: ]+'?(\w+)", instead_of("inspct")),
    "no output": Mistake("export vit.pth", r"see vitedge (.+)\.$", alone),
    "a fact with a typo": Mistake("inspect vit.pth --set head=2", r"did you mean (\S+)\?", instead_of("head")),
    "weights that the file does not have": Mistake(
        "inspect vit.pth --weights ema", r"--weights can be (\S+)\.$", instead_of("ema")
    ),
    "an artifact without its checkpoint": Mistake("validate onnx/model.onnx", r"add (--against CHECKPOINT)", added),
    "a Core ML option for an ONNX file": Mistake(
        "validate onnx --compute fp32", r"^vitedge: (--compute) .*leave it out", left_out
    ),
    "a size for an artifact": Mistake(
        "evaluate onnx --images val --image-size 48", r"^vitedge: (--image-size) .*leave it out", left_out
    ),
    "a fact of a checkpoint for an artifact": Mistake(
        "evaluate onnx --images val --set heads=2", r"^vitedge: (--set) .*leave it out", left_out
    ),
    "a seed without a choice": Mistake("evaluate onnx --images val --seed 3", r"add (--image-count N)", added),
    "a device for a checkpoint": Mistake(
        "evaluate vit.pth --images val --device ssh:board", r"^vitedge: (--device) .*leave it out", left_out
    ),
    "a limit without something to compare with": Mistake(
        "evaluate onnx --images val --max-drop 60", r"add (--against CHECKPOINT)", added
    ),
    "threads for what was measured before": Mistake(
        "bench run.json --threads 2", r"^vitedge: (--threads) .*leave it out", left_out
    ),
    "a Core ML package on Linux": Mistake(
        "bench coreml", r"vitedge (kit write BUNDLE DIR)", alone, 3, {"BUNDLE": "coreml", "DIR": "kit"}
    ),
}
SLOW = {
    "a profile with a typo": Mistake(
        "export vit.pth -o made --for raspbery-pi-5", r"did you mean (\S+)\?", instead_of("raspbery-pi-5")
    ),
    "pruning of nothing": Mistake(
        "prune vit.pth -o p.safetensors --images photos --image-count 32", r"give (--heads F)", added
    ),
    "layers for no comparison": Mistake("validate onnx --layers", r"add (--against CHECKPOINT)", added),
    "a kit of a bundle without Core ML": Mistake("kit write onnx kit", r"with: vitedge (.+)$", alone),
    "a tolerance for no comparison": Mistake("validate onnx --min-sqnr 20", r"add (--against CHECKPOINT)", added),
    "images for no comparison": Mistake("validate onnx --images photos", r"add (--against CHECKPOINT)", added),
    "a checkpoint for a bundle": Mistake("validate vit.pth", r"no artifact; vitedge (.+) writes", alone),
    "a checkpoint for a kit": Mistake("kit write vit.pth kit", r"; vitedge (.+) writes", alone),
    "a quantized file for a checkpoint": Mistake("inspect int8.pt2", r"already; vitedge (.+) writes", alone),
    "a fact that no file tells": Mistake("export bare.pth -o made", r"such as (--set heads=\d+)", added),
    "a guess that is not taken": Mistake("export bare.pth -o made", r"guess with (--accept-assumptions)", added),
    "an output that is there": Mistake("export vit.pth -o onnx", r"add (--force)", added),
    "no images to calibrate on": Mistake("quantize vit.pth -o q.pt2", r"add (--images DIR)", added),
    "a quantized file of another name": Mistake(
        "quantize vit.pth -o q.bin --scheme w8", r"name the output (\S+)\.$", instead_of("q.bin")
    ),
    "a pruned file of another name": Mistake(
        "prune vit.pth -o p.pth --heads 0.5 --images photos --image-count 32",
        r"name the output (\S+)\.$",
        instead_of("p.pth"),
    ),
    "a setting of heads for merging": Mistake(
        "prune vit.pth -o p.safetensors --merge 2 --images photos --image-count 32 --criterion taylor",
        r"^vitedge: (--criterion) .*leave it out",
        left_out,
    ),
    "an opset without ONNX": Mistake(
        "export vit.pth -o made --format coreml --opset 17", r"add (--format onnx)", added
    ),
    "a Core ML target without Core ML": Mistake(
        "export vit.pth -o made --coreml-target iOS16", r"add (--format coreml)", added
    ),
    "batches of an engine that is not built": Mistake(
        "export vit.pth -o made --batch dynamic --engine-batch 2:4",
        r"^vitedge: (--engine-batch) .*leave it out",
        left_out,
    ),
    "a type for the rest of nothing": Mistake(
        "export vit.pth -o made --rest fp16", r"(--rest) .*leave it out", left_out
    ),
    "a layer of no quantization": Mistake(
        "export vit.pth -o made --images photos --layer head=float", r"add (--precision int8)", added
    ),
    "a precision that there is not": Mistake(
        "export vit.pth -o made --images photos --precision int4", r"did you mean (\S+)\?", instead_of("int4")
    ),
    "a format with a typo": Mistake(
        "export vit.pth -o made --format onxn", r"did you mean (\S+)\?", instead_of("onxn")
    ),
    "labelled images without a budget": Mistake(
        "quantize vit.pth -o q.pt2 --images photos --image-count 16 --eval val", r"add (--max-drop POINTS)", added
    ),
    "a budget without labelled images": Mistake(
        "quantize vit.pth -o q.pt2 --images photos --image-count 16 --max-drop 60", r"add (--eval LABELLED_DIR)", added
    ),
    "a tolerance that int8 exceeds": Mistake(
        "export vit.pth -o made --precision int8 --images photos --min-sqnr 70",
        r"if the task allows it, (--min-sqnr \S+)\. ",
        instead_of("--min-sqnr 70"),
        4,
    ),
    "a tolerance that fp32 exceeds": Mistake(
        "export vit.pth -o made --max-error 1e-9",
        r"if the task allows it, (--max-error \S+)\. ",
        instead_of("--max-error 1e-9"),
        4,
    ),
    "a tolerance that fp16 exceeds": Mistake(
        "export vit.pth -o made --precision fp16 --min-sqnr 110",
        r"export with (--precision fp32)",
        instead_of("--precision fp16"),
        4,
    ),
    "a size for a bundle": Mistake("bench onnx --image-size 48", r"^vitedge: (--image-size) .*leave it out", left_out),
}


def kept(bundle: Path, place: Path, kind: str) -> None:
    """Writes a bundle with the artifacts of one format alone."""
    shutil.copytree(bundle, place)
    manifest = read_manifest(place)
    for artifact in manifest.artifacts:
        path = place / artifact.path
        if artifact.format != kind:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    chosen = tuple(artifact for artifact in manifest.artifacts if artifact.format == kind)
    names = {artifact.path for artifact in chosen}
    parity = tuple(report for report in manifest.parity if report.artifact in names)
    structure = tuple(report for report in manifest.structure if report.artifact in names)
    write_manifest(place, replace(manifest, artifacts=chosen, parity=parity, structure=structure))


@pytest.fixture(scope="module")
def made(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what a user has; not to be changed."""
    folder = tmp_path_factory.mktemp("mistakes") / "made"
    for place in (folder / "weights", folder / "my models"):
        place.mkdir(parents=True)
        for name in ("a.pth", "b.pth"):
            shutil.copy(VIT, place / name)
    shutil.copy(VIT, folder / "vit.pth")
    shutil.copy(ROOT / "tests" / "earlier" / "int8.pt2", folder / "int8.pt2")
    torch.save(torch.load(VIT, weights_only=True)["model"], folder / "bare.pth")
    for kind in ("onnx", "coreml"):
        kept(demo_bundle, folder / kind, kind)
    (folder / "run.json").write_text(json.dumps(to_dict(BENCH)), encoding="utf-8")
    images, labels = assets.images()
    for place, chosen in (("val", range(60)), ("photos", range(60, 100))):
        for index in chosen:
            here = folder / place / str(labels[index])
            here.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(here / f"{index}.png")
    return folder


def said(done: Outcome) -> str:
    """Returns the one sentence of a failure; long commands report progress above it."""
    (sentence,) = [line for line in done.err.splitlines() if line.startswith("vitedge: ")]
    return sentence


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in."""
    here = Path(shutil.copytree(made, tmp_path / "here", copy_function=os.link))
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_advice_of_a_sentence_works(name: str, folder: Path, vitedge: Command) -> None:
    del folder
    mistake = {**QUICK, **SLOW}[name]
    done = vitedge(*shlex.split(mistake.typed))
    assert done.code == mistake.code, done.err
    found = re.search(mistake.advice, said(done))
    assert found, said(done)
    following = mistake.follow(mistake.typed, found[1])
    words = [mistake.own.get(word, word) for word in shlex.split(following)]
    again = vitedge(*words)
    assert again.code == 0, f"{shlex.join(words)}: {again.err}"


def test_a_program_that_a_device_needs_is_installed_by_its_package(
    folder: Path, vitedge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    for device, package in (("ssh:board", "openssh-client"), ("adb", "adb")):
        done = vitedge("bench", "onnx", "--device", device)
        assert done.code == 3, done.err
        found = re.search(r"type: sudo apt-get install (\S+)", said(done))
        assert found, said(done)
        assert found[1] == package


def test_there_are_thirty_mistakes_and_more() -> None:
    assert len({**QUICK, **SLOW}) == len(QUICK) + len(SLOW) >= 45


MISSING = {
    "openvino": "bench onnx/model.onnx --runtime openvino",
    "coremltools": "export vit.pth -o made --format coreml",
}
"""Package to a command that needs it."""


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A package that cannot be imported: its absence is simulated by blocking its import."""
    package: str = request.param
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    yield package
    monkeypatch.undo()


def requirements() -> set[str]:
    """The names of all packages that pyproject.toml asks for, the extras' among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(one for some in extras.values() for one in some)]
    return {re.split(r"[<>=!;\[ ]", one)[0] for one in asked} | {f"vitedge[{extra}]" for extra in extras}


def test_every_part_is_installed_by_a_requirement_that_there_is() -> None:
    parts = [*registry.RUNTIMES.values(), *LOWERINGS.values(), *CHECKERS.values()]
    known = requirements() | {"vitedge", "onnxruntime-gpu"}  # the build of ONNX Runtime for GPUs
    for part in parts:
        words = shlex.split(part.install)
        assert words[:2] == ["pip", "install"]
        assert {re.split(r"[<>=]", word)[0] for word in words[2:]} <= known, part.install


@pytest.mark.parametrize("absent", MISSING, indirect=True)
def test_a_missing_package_has_an_install_line_that_pip_can_follow(absent: str, folder: Path, vitedge: Command) -> None:
    del folder
    done = vitedge(*shlex.split(MISSING[absent]))
    assert done.code == 3, done.err
    found = re.search(r"type: pip install (.+)$", said(done))
    assert found, said(done)
    (requirement,) = shlex.split(found[1])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = re.fullmatch(r"vitedge\[(.+)\]", requirement)
    wanted = project["optional-dependencies"][extra[1]] if extra else [requirement]
    names = [re.split(r"[<>=!;\[ ]", one)[0] for one in wanted]
    assert absent in names
    assert set(names) <= requirements()

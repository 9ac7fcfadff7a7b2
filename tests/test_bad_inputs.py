# SPDX-License-Identifier: Apache-2.0
"""Hostile files and mistakes of users end in one sentence and the right exit code; nothing is half-written or lost."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests import bad_files as bad
from vitedge.cli.main import main
from vitedge.recipe import ExportRecipe
from vitedge.verbs import export as pipeline


class Bad(NamedTuple):
    """One kind of bad input."""

    make: Callable[[Path], Path]
    """Writes it into a folder; what it returns is typed as CHECKPOINT."""
    words: tuple[str, ...]
    """Words that the sentence has to contain."""


class Mistake(NamedTuple):
    """One kind of mistake on the command line; ``{folder}`` stands for the folder of the test."""

    arguments: str
    words: tuple[str, ...]
    code: int = 2


class Outcome(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float


CHECKPOINTS = {
    "nothing there": Bad(bad.absent, ("absent.pth", "There is no")),
    "truncated zip": Bad(bad.truncated_zip, ("cut short or damaged", "fetch it again")),
    "truncated legacy pickle": Bad(bad.truncated_legacy, ("cut short or damaged", "fetch it again")),
    "truncated safetensors": Bad(bad.truncated_safetensors, ("damaged", "fetch it again")),
    "empty file": Bad(bad.content(b""), ("is empty",)),
    "random bytes": Bad(bad.random_bytes, ("not a checkpoint",)),
    "huge-header safetensors": Bad(bad.huge_header, ("header", "1152921504606846976")),
    "zip bomb": Bad(bad.zip_bomb, ("compressed",)),
    "npz bomb": Bad(bad.npz_bomb, ("header declares",)),
    "tensor without end": Bad(bad.endless_view, ("claim 4398046511104 bytes",)),
    "pickle that asks for os.system": Bad(bad.hostile_system, (f"{os.name}.system", "nothing was run")),
    "pickle that asks for eval": Bad(bad.hostile_eval, ("builtins.eval", "nothing was run")),
    "plain pickle that asks for os.system": Bad(bad.hostile_plain, (f"{os.name}.system", "nothing was run")),
    "whole nn.Module": Bad(bad.whole_module, ("tests.bad_files.Net", "state_dict()")),
    "git-lfs pointer": Bad(
        bad.content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"), ("git lfs pull",)
    ),
    "web page": Bad(bad.content(b"<!DOCTYPE html><html><body>404</body></html>"), ("web page",)),
    "ONNX file": Bad(bad.content(b"\x08\x0a\x12\x07pytorch" + bytes(60), "model.onnx"), ("ONNX model",)),
    "TorchScript archive": Bad(bad.torchscript, ("TorchScript", "state_dict()")),
    "folder without weights": Bad(bad.empty_folder, ("holds no weights",)),
    "folder with a missing shard": Bad(bad.missing_shard, ("model-00002-of-00002.safetensors", "not in the folder")),
    "named pipe": Bad(bad.pipe, ("neither a file nor a folder",)),
    "ResNet": Bad(bad.resnet, ("no architecture", "a ResNet, and no transformer")),
    "SwinV2": Bad(bad.swin_v2, ("SwinV2", "nearest family")),
    "missing weight": Bad(bad.changed(lambda state: state.pop("blocks.1.norm1.bias")), ("blocks.1.norm1.bias",)),
    "missing block": Bad(
        bad.changed(lambda state: [state.pop(name) for name in list(state) if name.startswith("blocks.1.")]),
        ("blocks.1.",),
    ),
    "left-over weight": Bad(
        bad.changed(lambda state: state.update({"blocks.1.adapter.weight": torch.ones(3)})),
        ("blocks.1.adapter.weight",),
    ),
    "wrong shape": Bad(
        bad.changed(lambda state: state.update({"blocks.1.mlp.fc1.weight": torch.ones(96, 64)})),
        ("blocks.1.mlp.fc1.weight", "96"),
    ),
    "NaN in a weight": Bad(
        bad.changed(lambda state: state["blocks.1.norm1.weight"].fill_(float("nan"))), ("NaN", "blocks.1.norm1.weight")
    ),
    "infinity in a weight": Bad(
        bad.changed(lambda state: state["head.weight"][0].fill_(float("inf"))), ("infinity", "head.weight")
    ),
    "integer weights": Bad(
        bad.changed(lambda state: state.update({"head.weight": state["head.weight"].to(torch.int8)})),
        ("head.weight is int8", "before quantization"),
    ),
}
"""Read by `inspect` and by `export`, which both have to refuse them."""

_GOOD = f"export {bad.VIT} -o {{folder}}/out"
MISTAKES = {
    "image size that the patches do not divide": Mistake(f"{_GOOD} --image-size 33", ("33", "32", "40")),
    "image size that PiT cannot have": Mistake(f"export {bad.PIT} -o {{folder}}/out --image-size 5", ("5",)),
    "absurd image size": Mistake(f"{_GOOD} --image-size 1000000", ("1000000",)),
    "image size 0": Mistake(f"{_GOOD} --image-size 0", ("--image-size",)),
    "no image folder": Mistake(f"{_GOOD} --images {{folder}}/none", ("{folder}/none",)),
    "empty image folder": Mistake(f"{_GOOD} --images {{folder}}/empty", ("holds no images",)),
    "corrupt images": Mistake(f"{_GOOD} --images {{folder}}/photos", ("cannot be read", ".jpg")),
    "output below a file": Mistake(f"export {bad.VIT} -o {{folder}}/file/out", ("cannot be written",)),
    "output that the system does not allow": Mistake(f"export {bad.VIT} -o /proc/vitedge/out", ("cannot be written",)),
    "output that exists": Mistake(f"export {bad.VIT} -o {{folder}}/thesis", ("already there", "--force")),
    "--force on what is no bundle": Mistake(f"export {bad.VIT} -o {{folder}}/thesis --force", ("not a bundle",)),
    "unknown weights": Mistake(f"{_GOOD} --weights ema", ("'ema'", "can be model")),
    "--set of an unknown field": Mistake(f"{_GOOD} --set head=3", ("'head'", "heads")),
    "--set without a value": Mistake(f"{_GOOD} --set heads", ("NAME=VALUE",)),
    "--set heads=abc": Mistake(f"{_GOOD} --set heads=abc", ("heads takes", "abc")),
    "--set mean=red": Mistake(f"{_GOOD} --set mean=red", ("mean takes", "red")),
    "--set mean with two numbers": Mistake(f"{_GOOD} --set mean=1,2", ("mean takes 3 numbers",)),
    "--set std=0": Mistake(f"{_GOOD} --set std=0", ("std takes", "above 0")),
    "--set classes against the shapes": Mistake(f"{_GOOD} --set classes=7", ("classes cannot be 7", "10")),
    "heads that do not divide the width": Mistake(f"{_GOOD} --set heads=5", ("The heads 5 do not fit the widths 64",)),
    "unknown profile": Mistake(f"{_GOOD} --for toaster", ("toaster", "cpu-x86")),
    "opset beyond the profile's": Mistake(f"{_GOOD} --for jetson-xavier --opset 18", ("jetson-xavier", "opset")),
    "opset beyond all": Mistake(f"{_GOOD} --opset 99", ("99",)),
    "unknown Core ML target": Mistake(f"{_GOOD} --format coreml --coreml-target iOS3", ("iOS3", "iOS16")),
    "negative seed": Mistake(f"{_GOOD} --seed -1", ("--seed", "-1")),
    "unknown format": Mistake(f"{_GOOD} --format tflite", ("tflite", "onnx")),
    "unknown precision": Mistake(f"{_GOOD} --precision int3", ("int3", "fp16")),
    "batch 0": Mistake(f"{_GOOD} --batch 0", ("--batch",)),
    "unknown option": Mistake(f"{_GOOD} --quick", ("--quick",)),
    "number that is none": Mistake(f"{_GOOD} --opset new", ("--opset", "integer")),
    "no output": Mistake(f"export {bad.VIT}", ("--output",)),
    "unknown command": Mistake("convert model.pth", ("convert",)),
    "recipe that is no TOML": Mistake(f"{_GOOD} --recipe {{folder}}/file", ("cannot be read as a recipe",)),
    "unreachable tolerance": Mistake(f"{_GOOD} --image-count 2 --max-error 0", ("model.onnx", "relative"), code=4),
    "validate nothing": Mistake("validate {folder}/none", ("is not there",)),
    "validate a folder": Mistake("validate {folder}/thesis", ("not a bundle",)),
    "validate a text file": Mistake("validate {folder}/file", ("neither a bundle",)),
    "validate an artifact alone": Mistake("validate {folder}/random.onnx", ("--against",)),
    "validate random bytes": Mistake(f"validate {{folder}}/random.onnx --against {bad.VIT}", ("random.onnx",)),
    "validate an empty package": Mistake(
        f"validate {{folder}}/half.mlpackage --against {bad.VIT}", ("half.mlpackage",)
    ),
    "bench nothing": Mistake("bench {folder}/none", ("none",)),
    "bench random bytes": Mistake("bench {folder}/random.onnx", ("random.onnx",)),
    "bench an unknown device": Mistake("bench {folder}/random.onnx --device moon", ("moon", "local")),
}


def surroundings(folder: Path) -> None:
    """Returns the files that the arguments of `MISTAKES` name."""
    (folder / "file").write_text("not = a [recipe")
    (folder / "empty").mkdir()
    bad.corrupt_images(folder)
    (folder / "thesis").mkdir()
    (folder / "thesis" / "thesis.tex").write_text("work of years")
    (folder / "random.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "half.mlpackage").mkdir()
    (folder / "half.mlpackage" / "Manifest.json").write_text('{"itemInfoEntries": {')


@pytest.fixture
def vitedge(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[Sequence[str]], Outcome]]:
    """The command line in this process: importing PyTorch once for every case would take minutes."""
    for module in ("vitedge.verbs.export", "vitedge.verbs.inspect", "vitedge.export.to_coreml"):
        importlib.import_module(module)  # before the clock starts
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(arguments: Sequence[str]) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["vitedge", *arguments])
        capfd.readouterr()
        start = time.process_time()  # what others do on this machine is not counted
        with pytest.raises(SystemExit) as caught:
            main()
        return Outcome(int(caught.value.code or 0), *capfd.readouterr(), time.process_time() - start)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def snapshot(folder: Path) -> dict[str, str]:
    """Returns every entry below a folder, with the content of the files."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def check_refusal(outcome: Outcome, words: Sequence[str], code: int = 2) -> None:
    """The right exit code, nothing on stdout, and after the lines about progress one sentence with these words."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    spoken = (" …", "note: ")
    lines = [line for line in outcome.err.splitlines() if not (line.endswith(spoken[0]) or line.startswith(spoken[1:]))]
    assert len(lines) == 1, outcome.err
    sentence = lines[0]
    assert re.fullmatch(r"vitedge: \S.*[.…)?]", sentence), sentence
    for word in words:
        assert word in sentence


def old_bundle(folder: Path) -> Path:
    """Something that --force may replace and must not lose."""
    (folder / "out").mkdir()
    (folder / "out" / "manifest.json").write_text("{}")
    (folder / "out" / "model.onnx").write_bytes(b"the old model")
    return folder / "out"


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_bad_checkpoint_is_refused_and_nothing_is_lost(
    kind: str, tmp_path: Path, vitedge: Callable[[Sequence[str]], Outcome]
) -> None:
    case = CHECKPOINTS[kind]
    path = case.make(tmp_path)
    output = old_bundle(tmp_path)
    before = snapshot(tmp_path)
    given = str(path)
    for arguments in (["inspect", given, "--json"], ["export", given, "-o", str(output), "--force"]):
        outcome = vitedge(arguments)
        if "--json" in arguments:
            document = json.loads(outcome.out)
            assert document["exit_code"] == 2
            assert all(word in document["error"] for word in (given, *case.words))
            outcome = outcome._replace(out="")
        check_refusal(outcome, (given, *case.words))
        assert snapshot(tmp_path) == before
        assert outcome.seconds < 1


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_refused_and_nothing_is_lost(
    kind: str, tmp_path: Path, vitedge: Callable[[Sequence[str]], Outcome]
) -> None:
    case = MISTAKES[kind]
    surroundings(tmp_path)
    before = snapshot(tmp_path)
    outcome = vitedge([part.format(folder=tmp_path) for part in case.arguments.split(" ")])
    check_refusal(outcome, [word.format(folder=tmp_path) for word in case.words], case.code)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("source", ["timm:vit_tiny_patch16_224", "hf:google/vit-base-patch16-224"])
def test_the_hub_without_a_network_is_refused_at_once(source: str, tmp_path: Path) -> None:
    # A real process: the client reads its settings when it is imported.
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    start = time.perf_counter()
    outcome = command("inspect", source, HF_HOME=str(tmp_path), **nowhere)
    check_refusal(outcome, (source, "the hub cannot be reached", "pass the folder"))
    assert time.perf_counter() - start < 15


def test_hostile_files_run_nothing_and_take_no_memory(tmp_path: Path) -> None:
    files = []
    for number, make in enumerate(HOSTILE):
        (tmp_path / str(number)).mkdir()
        files.append(str(make(tmp_path / str(number))))
    done = subprocess.run([sys.executable, "-c", GREED, *files], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 * 1024  # of which 15 MB of metadata take 60
    assert not [path for path in tmp_path.rglob("*") if path.name == bad.proof(tmp_path).name]


HOSTILE = (
    bad.zip_bomb,
    bad.npz_bomb,
    bad.endless_view,
    bad.huge_header,
    bad.sparse_header,
    bad.listing_metadata,
    bad.nested_metadata,
    bad.hostile_system,
    bad.hostile_eval,
    bad.hostile_plain,
    bad.whole_module,
)

GREED = """
import resource, sys
from vitedge.checkpoints.read import read
from vitedge.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read(path)
    except UserError:
        continue
    sys.exit(f"{path} was read")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
"""Kilobytes that reading the files took at most."""


def command(*arguments: str, limit: int | None = None, **environment: str) -> Outcome:
    """The command line as a process of its own; no file that it writes can grow beyond ``limit`` bytes."""

    def restrict() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or 0, limit or 0))

    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "vitedge", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        preexec_fn=restrict if limit else None,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, time.perf_counter() - start)


@pytest.mark.parametrize("limit", [100, 400_000])
def test_a_full_disk_leaves_the_old_bundle(limit: int, tmp_path: Path) -> None:
    """Once where the reference is written and once in the middle of the model."""
    output = old_bundle(tmp_path)
    before = snapshot(tmp_path)
    outcome = command("export", str(bad.VIT), "-o", str(output), "--force", "--image-count", "2", limit=limit)
    check_refusal(outcome, (str(output), "is full", "nothing was written"))
    assert snapshot(tmp_path) == before


def test_what_is_not_built_here_is_exit_3_with_a_bundle(
    tmp_path: Path, vitedge: Callable[[Sequence[str]], Outcome]
) -> None:
    arguments = ("--for", "jetson-orin-nano", "--format", "tensorrt", "--image-count", "2")
    outcome = vitedge(["export", str(bad.VIT), "-o", str(tmp_path / "out"), *arguments])
    assert outcome.code == 3
    assert "trtexec --onnx=model.onnx --saveEngine=model.engine --fp16" in " ".join(outcome.out.split())
    assert all(line.endswith(" …") or line.startswith("note: ") for line in outcome.err.splitlines())
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("sealed") / "bundle"
    pipeline.export(str(bad.VIT), folder, ExportRecipe(image_count=2))
    return folder


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit in the model": (lambda folder: flip(folder / "model.onnx", 0.5), "model.onnx"),
    "flipped bit in the reference": (lambda folder: flip(folder / "reference.npz", 0.5), "reference.npz"),
    "flipped bit in the manifest": (lambda folder: flip(folder / "manifest.json", 0.5), "manifest.json"),
    "truncated model": (lambda folder: bad.cut(folder / "model.onnx"), "model.onnx"),
    "truncated manifest": (lambda folder: bad.cut(folder / "manifest.json"), "manifest.json"),
    "empty manifest": (lambda folder: (folder / "manifest.json").write_bytes(b""), "manifest.json"),
    "no model": (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing"),
    "no reference": (lambda folder: (folder / "reference.npz").unlink(), "reference.npz is missing"),
    "another file": (lambda folder: (folder / "notes.txt").write_text("hello"), "notes.txt"),
    "edited manifest": (lambda folder: edit(folder / "manifest.json", '"passed": true', '"passed": false'), "seal"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_bundle_is_exit_4_with_the_name_of_the_file(
    kind: str, sealed: Path, tmp_path: Path, vitedge: Callable[[Sequence[str]], Outcome]
) -> None:
    damage, name = DAMAGE[kind]
    folder = Path(shutil.copytree(sealed, tmp_path / "bundle"))
    damage(folder)
    before = snapshot(tmp_path)
    check_refusal(vitedge(["validate", str(folder)]), (name,), 4)
    assert snapshot(tmp_path) == before


def test_an_undamaged_bundle_is_valid(sealed: Path, vitedge: Callable[[Sequence[str]], Outcome]) -> None:
    assert vitedge(["validate", str(sealed)]).code == 0


def test_force_loses_neither_a_checkpoint_inside_the_bundle_nor_a_link_to_it(
    sealed: Path, tmp_path: Path, vitedge: Callable[[Sequence[str]], Outcome]
) -> None:
    folder = Path(shutil.copytree(sealed, tmp_path / "bundle"))
    (tmp_path / "link").symlink_to(folder)
    inside = Path(shutil.copy(bad.VIT, folder / "best.pth"))
    before = snapshot(folder)
    check_refusal(vitedge(["export", str(inside), "-o", str(folder), "--force"]), ("holds best.pth",))
    assert snapshot(folder) == before
    inside.rename(tmp_path / "best.pth")
    assert vitedge(["export", str(bad.VIT), "-o", str(tmp_path / "link"), "--force", "--image-count", "3"]).code == 0
    assert (tmp_path / "link").readlink() == folder
    assert snapshot(folder) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth", "bundle", "link"]

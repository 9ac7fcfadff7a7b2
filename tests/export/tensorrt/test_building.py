# SPDX-License-Identifier: Apache-2.0
"""`building`, `process`, `child` and `rtx`: engines by real builds, and builds that are ended."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import parser

from tests.export.tensorrt import stand_in_builders
from tests.export.tensorrt.bad_files import good
from tests.export.tensorrt.engine_files import BATCHES, built, float16, needs_rtx
from vitedge.errors import BadRecipe, CheckFailed, MissingBackend, OutputRefused, VitedgeError
from vitedge.export.tensorrt import building, refusals
from vitedge.export.tensorrt.building import BUILDERS, build
from vitedge.export.tensorrt.child import Order, obey
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.files.plain import from_dict, to_dict
from vitedge.registry import Part

ONE_TENSOR = """
<ir_version: 10, opset_import: ["" : 23]>
attention (float16[1,2,16,32] a) => (float16[1,2,16,32] y) { y = Attention (a, a, a) }
"""
SLEEPER = Part("The sleeper", stand_in_builders.__name__)
COMMAND = """
import sys
from pathlib import Path
from vitedge.export.tensorrt import building
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.registry import Part
building.BUILDERS = {"sleeper": Part("The sleeper", "tests.export.tensorrt.stand_in_builders")}
source, out = map(Path, sys.argv[1:])
building.build(EngineRequest(source, out, ("SM86",), progress=lambda text: print(text, flush=True)), "sleeper")
"""


@pytest.fixture
def request_of(tmp_path: Path) -> EngineRequest:
    """A build of a file of two products, over an engine that is there already."""
    onnx.save(good(), tmp_path / "model.onnx")
    (tmp_path / "model.engine").write_bytes(b"the engine before")
    return EngineRequest(tmp_path / "model.onnx", tmp_path / "model.engine", ("SM86",))


def refused(request: EngineRequest, error: type[VitedgeError], builder: str = "tensorrt-rtx") -> str:
    """The message of a build that fails and leaves everything as it was."""
    with pytest.raises(error) as caught:
        build(request, builder)
    assert request.out.read_bytes() == b"the engine before"
    assert sorted(path.name for path in request.out.parent.iterdir()) == ["model.engine", "model.onnx"]
    return str(caught.value)


@needs_rtx
def test_an_engine_is_written_with_its_record(request_of: EngineRequest) -> None:
    phases: list[str] = []
    record = build(replace(request_of, progress=phases.append))
    assert request_of.out.stat().st_size > 100_000
    assert record.builder == "tensorrt-rtx"
    assert record.version.count(".") == 3
    assert record.targets == ("SM86",)
    assert record.shapes == {"x": ((1, 16, 32),)}
    assert record.options == {"tf32": False}
    assert record.onnx_sha256 == hashlib.sha256(request_of.onnx.read_bytes()).hexdigest()
    assert record.seconds > 0
    assert [(product.asked, product.found) for product in record.products] == [("int8", "int8"), ("fp16", "fp16")]
    assert phases[0] == "reading the ONNX file"
    assert "Building engine" in phases
    assert from_dict(EngineRecord, to_dict(record)) == record


@needs_rtx
def test_the_same_file_gives_the_same_bytes_and_other_targets_give_others(request_of: EngineRequest) -> None:
    hashes = []
    for targets in (("SM86",), ("SM86",), ("SM120",), ("SM75", "SM86")):
        build(replace(request_of, targets=targets))
        hashes.append(hashlib.sha256(request_of.out.read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


@needs_rtx
def test_a_dynamic_batch_has_one_profile_of_shapes(tmp_path: Path) -> None:
    record = built(tmp_path, float16("vit", "dynamic"), "SM86", dynamic=True)
    assert record.shapes == BATCHES
    assert [attention.found for attention in record.attentions] == ["fp16", "fp16"]


@needs_rtx
def test_an_option_is_passed_on_and_another_is_refused(request_of: EngineRequest) -> None:
    message = refused(replace(request_of, options={"speed": 9}), BadRecipe)
    assert message == "TensorRT-RTX has no option 'speed'; choose from tf32."
    assert "is true or false, not 1" in refused(replace(request_of, options={"tf32": 1}), BadRecipe)
    assert build(replace(request_of, options={"tf32": True})).options["tf32"] is True


@needs_rtx
def test_a_target_that_there_is_none_of_is_answered_with_the_choices(request_of: EngineRequest) -> None:
    for target in ("SM87", "NONE", "CURRENT", "orin"):
        message = refused(replace(request_of, targets=(target,)), BadRecipe)
        assert f"does not build for '{target}'; choose from SM75, SM80, SM86, SM89, SM120, SM121." in message


@needs_rtx
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="needs a machine without an NVIDIA GPU")
def test_this_machines_gpu_needs_to_be_there(request_of: EngineRequest) -> None:
    message = refused(replace(request_of, targets=()), MissingBackend)
    assert message.startswith("TensorRT-RTX finds no NVIDIA driver")


@needs_rtx
def test_a_crash_of_the_builder_is_told_and_leaves_the_command_alive(
    request_of: EngineRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one: an Attention of one tensor, which is otherwise found before."""
    monkeypatch.setattr(refusals, "CHECKS", ())
    onnx.save(parser.parse_model(ONE_TENSOR), request_of.onnx)
    message = refused(request_of, CheckFailed)
    assert message.startswith("TensorRT for RTX: its process was killed by SIGSEGV while it worked on ")


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("killed", "was killed by SIGKILL, perhaps for want of memory, while it worked on"),
        ("exits", "ended with exit code 7 while it worked on"),
    ],
)
def test_a_process_that_ends_without_an_answer_is_told(
    how: str, end: str, request_of: EngineRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(building.BUILDERS, "stand-in", SLEEPER)
    assert end in refused(replace(request_of, options={"end": how}), CheckFailed, "stand-in")


def test_a_build_that_takes_too_long_is_ended(request_of: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(building.BUILDERS, "sleeper", SLEEPER)
    phases: list[str] = []
    message = refused(replace(request_of, limit_s=3.0, progress=phases.append), CheckFailed, "sleeper")
    assert message == f"The sleeper was not done with {request_of.onnx} within 3 s, and was ended."
    assert_ended(int(phases[0].split()[1]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_a_command_that_is_interrupted_or_killed(number: int, request_of: EngineRequest) -> None:
    search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(request_of.onnx), str(request_of.out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": search},
    )
    assert command.stdout is not None
    process = int(command.stdout.readline().split()[1])
    command.send_signal(number)
    _, words = command.communicate(timeout=20)
    assert_ended(process)
    assert request_of.out.read_bytes() == b"the engine before"
    left = {path.name for path in request_of.out.parent.iterdir()} - {"model.engine", "model.onnx"}
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in words
        assert not left
    else:  # what a killed command leaves is hidden, and the next build removes it
        assert all(name.startswith(".model.engine.") for name in left)


def test_what_a_killed_command_left_is_removed(request_of: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(building.BUILDERS, "sleeper", SLEEPER)
    (request_of.out.parent / ".model.engine.4194303.partial").write_bytes(b"half an engine")
    refused(replace(request_of, limit_s=1.0), CheckFailed, "sleeper")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_told_in_one_sentence(request_of: EngineRequest) -> None:
    told: list[dict[str, object]] = []
    order = Order(
        "The small", stand_in_builders.__name__, "", "small", str(request_of.onnx), "/dev/full", ("SM86",), {}, {}
    )
    obey(order, told.append)
    assert told == [{"error": "OutputRefused", "message": "The engine cannot be written: No space left on device."}]


def test_a_builder_that_is_not_installed_names_the_command(
    request_of: EngineRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = replace(BUILDERS["tensorrt-rtx"], needs=("no_such_package",), systems=())
    monkeypatch.setitem(building.BUILDERS, "tensorrt-rtx", part)
    message = refused(request_of, MissingBackend)
    assert message == (
        "TensorRT for RTX needs no_such_package, which is not installed; type: pip install 'vitedge[tensorrt-rtx]'"
    )


def test_a_builder_that_there_is_none_of_is_answered_with_the_choices(request_of: EngineRequest) -> None:
    assert refused(request_of, BadRecipe, "trtexec") == f"There is no 'trtexec'; choose from {', '.join(BUILDERS)}."


@needs_rtx
def test_a_builder_has_one_public_name() -> None:
    """The protocol of the table, which the process of the builder calls."""
    module = importlib.import_module(BUILDERS["tensorrt-rtx"].module)
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    public = [value for value in own if not value.__name__.startswith("_")]
    assert public == [module.build]
    assert list(inspect.signature(module.build).parameters) == ["request"]


def test_a_package_that_is_there_but_broken_names_the_command(
    request_of: EngineRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken_builder.py").write_text("import libraries_that_are_gone\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(building.BUILDERS, "broken", Part("The broken one", "broken_builder", install="pip install it"))
    message = refused(request_of, MissingBackend, "broken")
    assert message.startswith("The broken one is installed but cannot be imported (No module named ")
    assert message.endswith("; type: pip install it")


def test_a_folder_that_is_not_there_is_refused_before_the_build(request_of: EngineRequest) -> None:
    with pytest.raises(OutputRefused, match="There is no folder"):
        build(replace(request_of, out=request_of.out.parent / "none" / "model.engine"))


def assert_ended(process: int) -> None:
    """Waits until a process is gone, for a few seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"process {process} is still there")

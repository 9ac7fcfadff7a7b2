# SPDX-License-Identifier: Apache-2.0
"""Of `trials`, `tiny`, `outcomes` and `breakages`: every known breakage is found, and nothing sound is blamed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest

from tests.vitedge.devices.health.environments import FALLING_BACK, driver, explained, tried, with_packages
from vitedge.devices import runner
from vitedge.devices.health import tiny
from vitedge.devices.health.breakages import BREAKAGES, at_least
from vitedge.devices.health.outcomes import outcomes, process_here
from vitedge.devices.health.trials import TRIALS
from vitedge.devices.session import connect
from vitedge.devices.transports.transport import Completed


def test_the_tiny_model_is_valid_and_computes_the_product() -> None:
    model = onnx.load_from_string(tiny.model())
    onnx.checker.check_model(model)
    session = onnx.reference.ReferenceEvaluator(model)
    np.testing.assert_allclose(session.run(None, {"x": tiny.example()})[0], tiny.example() @ tiny.weight(), rtol=1e-6)
    assert onnx.load_from_string(tiny.model(ir_version=300, opset=9)).ir_version == 300


def test_nothing_of_this_machine_is_blamed() -> None:
    with connect("local") as session:
        found = session.tried(("python", "room", "onnxruntime", "openvino", "tensorrt", "coreml", "trtexec"))
    assert {name: one.error for name, one in found.items() if one.state == "broken"} == {}
    assert {found[name].state for name in ("python", "room", "onnxruntime", "openvino")} == {"works"}
    assert found["room"].told["free_mb"].keys() == {"cache", "temporary files"}


def test_the_runner_tries_the_same(tmp_path: Path) -> None:
    program = runner.write(tmp_path / runner.NAME)
    done = subprocess.run(
        [sys.executable, str(program), "try", "python", "onnxruntime"], capture_output=True, check=True
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["trial"] for one in told] == ["python", "onnxruntime"]
    assert [one["state"] for one in told] == ["works", "works"]


OLD_IR = """
get_available_providers = list
class InferenceSession:
    def __init__(self, model, providers):
        raise RuntimeError("/onnxruntime_src/onnxruntime/core/graph/model.cc:180 Unsupported model IR version: 12, "
                           "max supported IR version: 10")
"""
ENVIRONMENTS: tuple[dict[str, tuple[str, str, str]], ...] = (
    {
        # microsoft/onnxruntime 1.16 to 1.18 with NumPy 2
        "onnxruntime": ("raise ImportError('numpy.core.multiarray failed to import')",
                        "onnxruntime 1.16.3 was built for NumPy 1, and NumPy 2.3.5 is installed", "'numpy<2'"),
        "openvino": ("raise ImportError('libopenvino.so.2640: cannot open shared object file')",
                     "libopenvino.so.2640: cannot open shared object file", "pip install --force-reinstall openvino"),
        # wang-xinyu/tensorrtx#1501
        "tensorrt": ("raise ImportError('libnvinfer.so.10: cannot open shared object file: No such file')",
                     "TensorRT's Python finds no libnvinfer.so.10", "pip install --force-reinstall tensorrt"),
    },
    {
        "onnxruntime": (OLD_IR, "onnx 1.19 writes IR version 12, and ONNX Runtime 1.16.3 reads 10 at most",
                        "pip install --upgrade onnxruntime"),
        "openvino": ("raise TypeError('Descriptors cannot be created directly.')", "protobuf 3.20 does not fit",
                     "pip install --upgrade protobuf"),
        "tensorrt": ("import what_is_not_there", "No module named 'what_is_not_there'", "--force-reinstall tensorrt"),
    },
    {
        "onnxruntime": ("raise ImportError('/lib/libgomp.so.1: cannot allocate memory in static TLS block')",
                        "a library of OpenMP was loaded too late", "export LD_PRELOAD="),
        "openvino": ("raise ImportError(\"/lib/libc.so.6: version `GLIBC_2.28' not found (required by x)\")",
                     "openvino needs GLIBC_2.28", "older openvino"),
        "tensorrt": ("import os, signal; os.kill(os.getpid(), signal.SIGILL)",
                     "instructions that this processor lacks", "OPENBLAS_CORETYPE"),
    },
    {
        "onnxruntime": ("raise ImportError('DLL load failed while importing onnxruntime_pybind11_state')",
                        "a DLL that onnxruntime needs", "Visual C++"),
        "openvino": ("raise ValueError('what nobody has seen')", "what nobody has seen", "--force-reinstall openvino"),
    },
)  # fmt: skip
"""Package to its source, and what has to be said of it."""


@pytest.mark.parametrize("packages", ENVIRONMENTS)
def test_breakages_of_runtimes_are_found_and_explained(
    packages: dict[str, tuple[str, str, str]], tmp_path: Path
) -> None:
    environment = with_packages(tmp_path, {name: source for name, (source, _, _) in packages.items()})
    found = tried(environment, *packages)
    versions = {"numpy": "2.3.5", "onnxruntime": "1.16.3", "onnx": "1.19", "protobuf": "3.20"}
    for name, (_, why, remedy) in packages.items():
        assert found[name].state == "broken"
        told = explained(found[name], name, **versions)
        assert why in told[0]
        assert remedy in told[1]


def test_a_provider_that_falls_back_is_broken_with_a_gpu_and_of_no_concern_without(tmp_path: Path) -> None:
    environment = with_packages(tmp_path / "python", {"onnxruntime": FALLING_BACK})
    names = ("onnxruntime", "onnxruntime CUDAExecutionProvider", "onnxruntime TensorrtExecutionProvider")
    without = tried(environment, *names)
    assert [without[name].state for name in names] == ["works", "elsewhere", "elsewhere"]
    found = tried(environment, *names, libraries=driver(tmp_path / "driver"))
    assert [found[name].state for name in names] == ["works", "broken", "broken"]
    why, remedy = explained(found[names[1]], "onnxruntime")
    assert why == "libcudnn.so.9 is not found, so that ONNX Runtime falls back to the processor"
    assert remedy == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert "libnvinfer.so.10 of TensorRT is not found" in explained(found[names[2]], "onnxruntime")[0]


def test_a_result_that_is_wrong_is_broken(tmp_path: Path) -> None:
    wrong = FALLING_BACK.replace('feeds["x"] @', '1.5 * feeds["x"] @').replace("def get_providers", "def other")
    wrong += "    def get_providers(self):\n        return self.asked\n"
    outcome = tried(with_packages(tmp_path, {"onnxruntime": wrong}), "onnxruntime")["onnxruntime"]
    assert "50.0% off" in outcome.error


def test_after_a_crash_the_others_are_tried_in_a_new_process(tmp_path: Path) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    found = tried(with_packages(tmp_path, {"onnxruntime": crash}), "python", "onnxruntime", "room")
    assert {name: one.state for name, one in found.items()} == {
        "python": "works", "onnxruntime": "broken", "room": "works",
    }  # fmt: skip
    assert found["onnxruntime"].error == "its process was killed by SIGSEGV"


def test_a_library_that_prints_on_stdout_disturbs_no_line(tmp_path: Path) -> None:
    claim = '{"trial": "openvino", "state": "works"}'
    noisy = f"import os\nos.write(1, b'hello')\nprint('{claim}')\nraise ImportError('x')"
    outcome = tried(with_packages(tmp_path, {"openvino": noisy}), "openvino")["openvino"]
    assert outcome.state == "broken"
    assert "hello" in outcome.said


@pytest.mark.parametrize(
    "out", ["", "nonsense\n", '{"trial": "room"}\n', "[]\n", '{"trial": "other", "state": "works"}\n']
)
def test_lines_that_are_none_are_no_outcome(out: str) -> None:
    found = outcomes(("room",), lambda _names: Completed(3, out, "--- trial room\nsome words\n"))
    assert found["room"].state == "broken"
    assert "ended with exit code 3" in found["room"].error
    assert found["room"].said == "some words"


def test_where_numpy_is_broken_it_is_blamed_alone(tmp_path: Path) -> None:
    environment = with_packages(tmp_path, {"numpy": "raise ImportError('libopenblas.so: cannot open it')"})
    found = tried(environment, "room", "onnxruntime", "openvino", "coreml")
    assert [one.state for one in found.values()] == ["works", "broken", "broken", "elsewhere"]
    told = {explained(found[name], name) for name in ("onnxruntime", "openvino")}
    assert told == {("ImportError: libopenblas.so: cannot open it", "pip install --force-reinstall numpy")}


def test_the_doctor_itself_needs_nothing_that_may_be_broken() -> None:
    heavy = ("numpy", "onnx", "onnxruntime", "torch", "coremltools")
    script = "import sys, vitedge.verbs.doctor, vitedge.render.doctor, vitedge.devices.local"
    script += f"; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_module_that_is_not_there_is_no_silence() -> None:
    assert "exit code 1" in outcomes(("room",), process_here("vitedge.nowhere"))["room"].error


def test_the_table_is_one_of_patterns_that_name_trials() -> None:
    for known in BREAKAGES:
        assert all(any(name.startswith(begin) for name in TRIALS) for begin in known.trials)
    assert at_least("2.10.0", "2.9")
    assert not at_least("2.3.5", "2.4")

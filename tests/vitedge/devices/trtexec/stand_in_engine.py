# SPDX-License-Identifier: Apache-2.0
"""The engines of the stand-in for trtexec: an ONNX file with a head, and made-up times. See `stand_in`.

A test starts it hundreds of times, so what takes long to import is imported where it is needed.
"""

from __future__ import annotations

import binascii
import json
import math
import os
import signal
import site
from typing import Any

TAG, HEAD = b"ftrt", 28
WORDS = {1: "Float", 10: "Half", 3: "Int8", 16: "BFloat16"}
"""Number of an element type in ONNX to its word in the engine inspector."""


class Engine:
    """What is behind the head of an engine: the file in base64, shapes with -1 for a dynamic side, and inventions."""

    def __init__(self, **content: Any) -> None:
        self.content = content
        self.onnx: str = content["onnx"]
        self.inputs: dict[str, list[int]] = content["inputs"]
        self.outputs: dict[str, list[int]] = content["outputs"]
        self.types: dict[str, str] = content["types"]
        self.layers: list[dict[str, Any]] = content["layers"]
        self.version: str = content["version"]
        self.milliseconds: float = content["milliseconds"]

    @staticmethod
    def read(program: Any) -> Engine:
        path = program.given["--loadEngine"]
        if not os.path.isfile(path):
            raise program.refused(f"Error opening engine file: {path}\nEngine set up failed")
        engine = Engine(**json.loads(contents(path)[HEAD:]))
        if engine.version != program.version:
            raise program.refused("[TRT] 1: Version tag does not match.\nEngine deserialization failed.")
        return engine

    def write_layers(self, program: Any, *, has_context: bool) -> None:
        unknown = not has_context and any(-1 in sides for sides in self.inputs.values())
        records = []
        for layer in self.layers:
            inputs = [_tensor(program, f"i{i}", word, unknown) for i, word in enumerate(layer["inputs"])]
            outputs = [_tensor(program, layer["result"], layer["output"], unknown)]
            records.append(
                {
                    "Name": layer["node"] + "_myl0_0",
                    "LayerType": "gemm",
                    "Inputs": inputs,
                    "Outputs": outputs,
                    "Metadata": f"[ONNX Layer: {layer['node']}]",
                }
            )
        names = [*self.inputs, *self.outputs]
        ends: dict[str, Any] = {"Bindings": names}
        if program.since("11.1"):
            ends = {"I/O Tensors": [{"Name": name, "DataType": self.types[name]} for name in names]}
        elif self.layers:
            records.insert(0, _copy(program, self, unknown))
        named = [layer["node"] for layer in self.layers]
        detailed = "--loadEngine" in program.given or program.given.get("--profilingVerbosity") == "detailed"
        text = json.dumps({"Layers": records if detailed else named, **ends})
        write(program.given["--exportLayerInfo"], text.encode())


def contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _tensor(program: Any, name: str, word: str, unknown: bool) -> dict[str, Any]:
    if program.since("11.1"):
        return {"Name": name, "Format": "Row major linear", "Datatype": "N/A" if unknown else word}
    phrase = {"Float": "FP32", "Half": "FP16", "BFloat16": "BF16", "Int8": "Int8"}[word]
    told = "N/A due to dynamic shapes" if unknown else f"Row major linear {phrase} format"
    return {"Name": name, "Format/Datatype": told}


def _copy(program: Any, engine: Engine, unknown: bool) -> dict[str, Any]:
    """The first layer of an engine, which copies its inputs."""
    tensors = [_tensor(program, name, engine.types[name], unknown) for name in engine.inputs]
    return {
        "Name": "Reformatting CopyNode for Input Tensor 0",
        "LayerType": "Reformat",
        "Inputs": tensors,
        "Outputs": tensors,
    }


def build(program: Any) -> Engine:

    path = program.given["--onnx"]
    if program.fault == "parser":
        program.say("E", '[TRT] ModelImporter.cpp:720: While parsing node number 1 [Swish -> "y"]:')
        raise program.refused("Failed to parse onnx file\nParsing model failed\nEngine set up failed")
    if program.fault == "builder":
        raise program.refused(
            "[TRT] Error Code 10: Could not find any implementation for node a.\nEngine set up failed"
        )
    if program.fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    site.main()  # left out of the start, which it doubles
    import onnx  # noqa: PLC0415 - only builds need it

    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: _sides(value) for value in model.graph.input if value.name not in weights}
    dynamic = [name for name, sides in inputs.items() if -1 in sides]
    if dynamic and "--optShapes" not in program.given:
        raise program.refused(
            "Dynamic dimensions required for input, but no shapes were provided\nEngine set up failed"
        )
    if not dynamic and "--optShapes" in program.given:
        raise program.refused("Static model does not take explicit shapes\nEngine set up failed")
    cache = program.given.get("--timingCacheFile")
    if cache:
        before = contents(cache) if os.path.exists(cache) else b""
        write(cache, before + f"timed by {program.version}\n".encode())
    if os.environ.get("STAND_IN_WEIGHTS"):
        program.say("W", "[TRT] Weights [name=w] had the following issues when converted to FP16:")
    ends = (*model.graph.input, *model.graph.output)
    engine = Engine(
        onnx=binascii.b2a_base64(contents(path)).decode(),
        inputs=inputs,
        outputs={value.name: _sides(value) for value in model.graph.output},
        types={value.name: WORDS[value.type.tensor_type.elem_type] for value in ends},
        layers=_layers(program, onnx.shape_inference.infer_shapes(model)),
        version=program.version,
        milliseconds=0.5 * len(model.graph.node),
    )
    layout = 0 if program.since("10.3") else 1
    version = bytes([*(int(part) for part in (program.version + ".0").split(".")), 26])
    head = TAG + layout.to_bytes(4, "little") + bytes(16) + version
    write(program.given["--saveEngine"], head + json.dumps(engine.content).encode())
    return engine


def _sides(value: Any) -> list[int]:
    return [side.dim_value or -1 for side in value.type.tensor_type.shape.dim]


def _shapes(text: str) -> dict[str, list[int]]:
    pairs = (entry.rpartition(":") for entry in text.split(",") if entry)
    return {name: [int(side) for side in sides.split("x")] for name, _, sides in pairs}


def _layers(program: Any, model: Any) -> list[dict[str, Any]]:
    """The products, in the types of the file; with weak typing in those that the flags allow."""
    makers = {name: node for node in model.graph.node for name in node.output}
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    typed = program.since("11.1") or "--stronglyTyped" in program.given
    allowed = {1} | ({10} if "--fp16" in program.given else set()) | ({3} if "--int8" in program.given else set())
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMul":
            continue
        maker = [makers.get(name) for name in node.input]
        integers = all(one is not None and one.op_type == "DequantizeLinear" for one in maker)
        asked = [3 if integers else kinds.get(name, 1) for name in node.input]
        inputs = [WORDS[kind if typed or kind in allowed else 1] for kind in asked]
        output = kinds.get(node.output[0], 1)
        word = WORDS[output if typed or output in allowed else 1]
        found.append({"node": node.name, "result": node.output[0], "inputs": inputs, "output": word})
    return found


def infer(program: Any, engine: Engine) -> None:
    shapes = {name: _inferred(program, engine, name) for name in engine.inputs}
    batch = next(iter(shapes.values()))[0]
    pairs = (entry.rpartition(":") for entry in program.given.get("--loadInputs", "").split(",") if entry)
    loaded = {name: place for name, _, place in pairs}
    for name, sides in shapes.items():
        program.say("I", f"Using {'values loaded' if name in loaded else 'random values'} for input {name}")
        told = f"binding for {name} with dimensions {'x'.join(map(str, sides))}"
        program.say("I", f"Input {told} is created." if program.since("8.6") else f"Created input {told}")
    for name, sides in engine.outputs.items():
        told = f"binding for {name} with dimensions {'x'.join(str(batch if s < 0 else s) for s in sides)}"
        program.say("I", f"Output {told} is created." if program.since("8.6") else f"Created output {told}")
    if "--exportLayerInfo" in program.given and program.since("8.5"):
        engine.write_layers(program, has_context=True)
    simulation = Simulation(program, engine.milliseconds * batch)
    simulation.run()
    if "--exportOutput" in program.given:
        _write_outputs(program, engine, shapes, loaded)
    if "--exportProfile" in program.given:
        _write_profile(program, engine)


def _inferred(program: Any, engine: Engine, name: str) -> list[int]:
    sides = engine.inputs[name]
    if -1 not in sides:
        return sides
    given = _shapes(program.given.get("--shapes", "")).get(name)
    if given is None:
        given = [1 if side < 0 else side for side in sides]
        missing = f"Shape missing for input with dynamic shape: {name}Automatically setting"
        if not program.since("8.5"):
            missing = (
                f"Dynamic dimensions required for input: {name}, but no shapes were provided. Automatically overriding"
            )
        program.say("W", f"{missing} shape to: {'x'.join(map(str, given))}")
    return given


def _write_outputs(program: Any, engine: Engine, shapes: dict[str, list[int]], loaded: dict[str, str]) -> None:
    site.main()
    import numpy as np  # noqa: PLC0415 - only this needs it
    import onnxruntime  # noqa: PLC0415 - likewise

    session = onnxruntime.InferenceSession(binascii.a2b_base64(engine.onnx), providers=["CPUExecutionProvider"])
    feeds = {}
    for entry in session.get_inputs():
        dtype = np.dtype({"tensor(float)": "<f4", "tensor(float16)": "<f2"}[entry.type])
        count = int(np.prod(shapes[entry.name]))
        content = contents(loaded[entry.name])
        if program.since("8.5") and len(content) != count * dtype.itemsize:
            raise program.refused(f"Unexpected file size for input file: {loaded[entry.name]}.")
        values = np.zeros(count, dtype)  # 8.2 reads what there is
        values[: len(content) // dtype.itemsize] = np.frombuffer(content, dtype)[:count]
        feeds[entry.name] = values.reshape(shapes[entry.name])
    text, separator = "[\n", "  "
    for name, result in zip(engine.outputs, session.run(None, feeds), strict=True):
        array = np.asarray(result)
        sides = "x".join(map(str, array.shape))
        values = ", ".join(f"{float(value):.6g}" for value in array.ravel())
        text += f'{separator}{{ "name" : "{name}"\n  , "dimensions" : "{sides}"\n  , "values" : [ {values} ]\n  }}\n'
        separator = ", "
    text += "]\n"
    cut = len(text) // 2 if program.fault == "cut" else len(text)
    write(program.given["--exportOutput"], text[:cut].encode())


def _write_profile(program: Any, engine: Engine) -> None:
    share = engine.milliseconds / max(len(engine.layers), 1)
    text = '[\n  { "count" : 10 }\n'
    for layer in engine.layers:
        median = f', "medianMs" : {share:g}' if program.since("8.5") else ""
        text += f', {{ "name" : "{layer["node"]}", "timeMs" : {10 * share:g}, "averageMs" : {share:g}{median}'
        text += ', "percentage" : 50 }\n'
    write(program.given["--exportProfile"], f"{text}]\n".encode())


class Simulation:
    """Inferences that take no time, with times of their own.

    STAND_IN_SPREAD is their coefficient of variation, STAND_IN_ENQUEUE and STAND_IN_COPY milliseconds of an enqueue and
    of a copy, STAND_IN_UNCAPTURED a failing capture of a CUDA graph.
    """

    def __init__(self, program: Any, milliseconds: float) -> None:
        self.program = program
        self.compute = milliseconds
        self.spread = float(os.environ.get("STAND_IN_SPREAD", "0.002"))
        self.enqueue = float(os.environ.get("STAND_IN_ENQUEUE", "0.01"))
        new, given = program.since("11.1"), program.given
        self.graph = "--noCudaGraph" not in given if new else "--useCudaGraph" in given
        copies = "--includeDataTransfers" in given if new else "--noDataTransfers" not in given
        self.copy = float(os.environ.get("STAND_IN_COPY", "0.1")) if copies else 0.0
        self.warmup = self._number("--warmUp", 200.0)

    def run(self) -> None:
        say = self.program.say
        if self.graph and os.environ.get("STAND_IN_UNCAPTURED"):
            say(
                "W",
                "The built TensorRT engine contains operations that are not permitted under CUDA graph capture mode.",
            )
            ignored = (
                "CUDA graph capture failed." if self.program.since("11.1") else "The specified --useCudaGraph flag"
            )
            say("W", f"{ignored} The inference will be launched without using CUDA graph launch.")
        say("I", "Starting inference")
        rows = self._rows()
        kept = [row for row in rows if row["startComputeMs"] >= self.warmup]
        profiled = {"--dumpProfile", "--exportProfile"} & self.program.given.keys()
        separate = self.program.since("11.1") or "--separateProfileRun" in self.program.given
        if not profiled or separate or not self.program.since("8.5"):
            self._report(rows, kept)

    def _number(self, name: str, default: float) -> float:
        text = self.program.given.get(name)
        if text is None:
            return default
        return float(text) if self.program.since("8.5") else float(int(text.partition(".")[0]))

    def _rows(self) -> list[dict[str, float]]:
        """The loop of trtexec: those that end in the warm-up are made up for, but for the first."""
        iterations, longest = int(self._number("--iterations", 10)), self._number("--duration", 3.0) * 1e3 + self.warmup
        rows: list[dict[str, float]] = []
        now, skipped = 0.0, 0
        while len(rows) < iterations + skipped or now < longest:
            compute, copy = self.compute * (1 + 1.4 * self.spread * math.sin(12.9898 * len(rows))), self.copy
            start = now + copy
            rows.append(
                {
                    "startEnqMs": now,
                    "endEnqMs": now + self.enqueue,
                    "startH2dMs": now,
                    "endH2dMs": start,
                    "startComputeMs": start,
                    "endComputeMs": start + compute,
                    "startD2hMs": start + compute,
                    "endD2hMs": start + compute + copy,
                    "h2dMs": copy,
                    "computeMs": compute,
                    "d2hMs": copy,
                    "latencyMs": compute + 2 * copy,
                }
            )
            if not self.program.since("8.5"):
                rows[-1]["endToEndMs"] = 2 * compute + copy
            now = start + compute + copy
            skipped += now < self.warmup and len(rows) > 1
        return rows

    def _report(self, rows: list[dict[str, float]], kept: list[dict[str, float]]) -> None:
        say, since = self.program.say, self.program.since
        say("I", f"Warmup completed {len(rows) - len(kept)} queries over {self.warmup:g} ms")
        say("I", f"Timing trace has {len(kept)} queries over 3.0 s")
        say("I", "=== Performance summary ===")
        say("I", "Throughput: 100 qps")
        for title in ("Latency", *(() if since("8.5") else ("End-to-End Host Latency",)), "GPU Compute Time"):
            say("I", f"{title}: min = 1 ms, max = 1 ms, mean = 1 ms, median = 1 ms, percentile(99%) = 1 ms")
        if self.enqueue > 0.8 * self.compute:
            say(
                "W",
                "* Throughput may be bound by Enqueue Time rather than GPU Compute and the GPU may be under-utilized.",
            )
            hint = "If you are using --noCudaGraph, removing it" if since("11.1") else "--useCudaGraph (CUDA graphs)"
            say("W", f"  {hint} may increase throughput.")
        if self.copy >= self.compute:
            say("W", "* Throughput may be bound by host-to-device transfers for the inputs rather than GPU Compute.")
        limit = 2.5 if since("11.1") else 1.0
        if since("8.5") and 100 * self.spread > limit:
            say("W", f"* GPU compute time is unstable, with coefficient of variance = {100 * self.spread:g}%.")
            say("W", "  If not already in use, locking GPU clock frequency may improve the stability.")
        if "--exportTimes" in self.program.given:
            told = kept if since("8.5") else rows
            lines = (", ".join(f'"{key}" : {value:.6g}' for key, value in row.items()) for row in told)
            text = "[\n" + "\n".join(f"{', ' if i else '  '}{{ {line} }}" for i, line in enumerate(lines)) + "\n]\n"
            write(self.program.given["--exportTimes"], text.encode())

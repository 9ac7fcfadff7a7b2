# SPDX-License-Identifier: Apache-2.0
"""Real ML Programs of one operation: written by coremltools, read and computed by the runtime under test."""

from __future__ import annotations

import functools
import gc
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitedge.export.coreml.package import write_package
from vitedge.export.coreml.quiet import load_coremltools, quiet
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import MLProgram, read_program

Build = Callable[..., Any]
"""Takes coremltools' builder ``mb`` and the inputs by name, returns one MIL variable or a tuple of them."""

OPSETS = ("iOS16", "iOS17", "iOS18")


def program(build: Build, inputs: Mapping[str, np.ndarray], opset: str = "iOS16", **settings: Any) -> MLProgram:
    """The program as it comes back from a package. Inputs are float32, float16 or int32; no pass is run over it.

    The settings are further ones of coremltools' ``convert``.
    """
    ct = _coremltools()
    with quiet():
        return _read(ct, _mil(ct, build, inputs, opset), opset, settings)


@functools.cache
def _coremltools() -> Any:
    """The package, which collects garbage at every conversion: 0.2 s over all that is imported, if it is not frozen."""
    ct = load_coremltools()
    gc.collect()
    gc.freeze()
    return ct


def executed(build: Build, inputs: Mapping[str, np.ndarray], opset: str = "iOS16", compute: str = "declared") -> Any:
    """Returns the result of the runtime: an array, or a tuple of arrays where the operation makes several values."""
    read = program(build, inputs, opset)
    found = MLProgramInterpreter(read, compute).run(
        {name: torch.from_numpy(value.copy()) for name, value in inputs.items()}
    )
    results = [found[name] for name in read.outputs]
    values = tuple(value.numpy() if isinstance(value, torch.Tensor) else value for value in results)
    return values[0] if len(values) == 1 else values


def inferred(build: Build, inputs: Mapping[str, np.ndarray], opset: str = "iOS16") -> Any:
    """Returns the result of coremltools' own ``value_inference``, an independent NumPy statement of the operation."""
    ct = load_coremltools()
    found: list[Any] = []

    def folded(mb: Any, **_: Any) -> Any:
        variables = build(mb, **{name: mb.const(val=value) for name, value in inputs.items()})
        several = variables if isinstance(variables, (tuple, list)) else (variables,)
        found.extend(variable.val for variable in several)
        return tuple(variables) if isinstance(variables, list) else variables

    with quiet():
        _mil(ct, folded, {"unused": np.zeros(1, np.float32)}, opset)
    if any(value is None for value in found):
        raise LookupError("coremltools has no value_inference for this: state it in NumPy")
    return found[0] if len(found) == 1 else tuple(found)


def materialized(build: Build, opset: str) -> Any:
    """Returns a compressed constant as coremltools decompresses it; the builder gets no inputs."""
    ct = load_coremltools()
    found: list[Any] = []

    def compressed(mb: Any, **_: Any) -> Any:
        variables = build(mb)
        found.append((variables[0] if isinstance(variables, (tuple, list)) else variables).op)
        return variables

    with quiet():
        _mil(ct, compressed, {"unused": np.zeros(1, np.float32)}, opset)
        return found[0].materialized_val_inference()


def _mil(ct: Any, build: Build, inputs: Mapping[str, np.ndarray], opset: str) -> Any:
    from coremltools.converters.mil import Builder as mb  # noqa: N813, PLC0415  (coremltools' own name for it)
    from coremltools.converters.mil.mil import types  # noqa: PLC0415

    kinds = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32, "bool": types.bool}
    specs = [mb.TensorSpec(shape=value.shape, dtype=kinds[value.dtype.name]) for value in inputs.values()]
    names = list(inputs)

    def main(*variables: Any) -> Any:
        return build(mb, **dict(zip(names, variables, strict=True)))

    # The builder takes the names of the program's inputs from the names of the function's parameters.
    scope: dict[str, Any] = {"main": main}
    exec(f"def function({', '.join(names)}): return main({', '.join(names)})", scope)
    return mb.program(input_specs=specs, opset_version=ct.target[opset])(scope["function"])


def _read(ct: Any, mil: Any, opset: str, settings: Mapping[str, Any]) -> MLProgram:
    model = ct.convert(
        mil,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[opset],
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        **settings,
    )
    folder = Path(tempfile.mkdtemp(prefix="vitedge-mil-")) / "model.mlpackage"
    weights = Path(model.weights_dir) / "weight.bin"
    weights.touch()  # coremltools writes none where every constant is small
    write_package(folder, model.get_spec(), weights)
    return read_program(read_package(folder))

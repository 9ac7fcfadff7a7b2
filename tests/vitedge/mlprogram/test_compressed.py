# SPDX-License-Identifier: Apache-2.0
"""A real model as coremltools compresses it: it equals what coremltools decompresses it to, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.export.coreml.models import captured
from vitedge.export.coreml.quiet import load_coremltools, quiet
from vitedge.export.to_coreml import lower
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import MLProgram, read_program
from vitedge.recipe import ResolvedRecipe

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
VERBS = {
    "prune_weights": "OpMagnitudePrunerConfig",
    "prune_weights by threshold": "OpThresholdPrunerConfig",
    "palettize_weights": "OpPalettizerConfig",
    "linear_quantize_weights": "OpLinearQuantizerConfig",
}
"""Functions of `coremltools.optimize.coreml` to the class of their configurations."""
Step = tuple[str, dict[str, Any]]
Scheme = tuple[Step, ...]
"""Compressions of a weight, applied one after the other."""


def quantize(**config: Any) -> Step:
    return "linear_quantize_weights", config


def palettize(**config: Any) -> Step:
    return "palettize_weights", {"mode": "uniform", **config}


def prune(**config: Any) -> Step:
    return f"prune_weights{' by threshold' if 'threshold' in config else ''}", config


def nearest(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A look-up table of one's own, and its entry that is the nearest to every number."""
    lut = np.array([-0.05, 0, 0.03, 0.1]).astype(weight.dtype)
    return lut, np.abs(weight.reshape(-1, 1) - lut).argmin(1).astype(np.uint8)


QUANTIZED: dict[str, Scheme] = {
    "int8 per channel": (quantize(),),
    "int8 per tensor": (quantize(granularity="per_tensor"),),
    "int8 asymmetric": (quantize(mode="linear"),),
    "uint8 asymmetric": (quantize(mode="linear", dtype="uint8"),),
    "uint8 symmetric per tensor": (quantize(dtype="uint8", granularity="per_tensor"),),
}
QUANTIZED_IN_BLOCKS: dict[str, Scheme] = {
    "int4 per block of 32": (quantize(dtype="int4", granularity="per_block", block_size=32),),
    "int4 per block of 8": (quantize(dtype="int4", granularity="per_block", block_size=8),),
    "uint4 per block of 16": (quantize(mode="linear", dtype="uint4", granularity="per_block", block_size=16),),
    "uint8 per block of 4": (quantize(mode="linear", dtype="uint8", granularity="per_block", block_size=4),),
    "uint4 per channel": (quantize(mode="linear", dtype="uint4"),),
}
PRUNED: dict[str, Scheme] = {
    "half by magnitude": (prune(target_sparsity=0.5),),
    "a threshold": (prune(threshold=0.1, minimum_sparsity_percentile=0.1),),
    "blocks of four": (prune(target_sparsity=0.5, block_size=4),),
    "2:4": (prune(n_m_ratio=(2, 4)),),
}
PALETTIZED: dict[str, Scheme] = {
    **{f"{bits} bits": (palettize(nbits=bits),) for bits in (1, 2, 4, 6, 8)},
    "4 bits by k-means": (palettize(mode="kmeans", nbits=4),),
    "a table of one's own": (palettize(mode="custom", lut_function=nearest),),
}
PALETTIZED_IN_GROUPS: dict[str, Scheme] = {
    "3 bits": (palettize(nbits=3),),
    "4 bits per group of 8 channels": (palettize(nbits=4, granularity="per_grouped_channel", group_size=8),),
    "2 bits per group of the second axis": (
        palettize(nbits=2, granularity="per_grouped_channel", group_size=8, channel_axis=1),
    ),
    "4 bits and a scale per channel": (palettize(nbits=4, enable_per_channel_scale=True),),
    "vectors of 2": (palettize(mode="kmeans", nbits=3, cluster_dim=2),),
    "vectors of 4 per group of 16 channels": (
        palettize(mode="kmeans", nbits=2, cluster_dim=4, granularity="per_grouped_channel", group_size=16),
    ),
}
HALF = prune(target_sparsity=0.5)
# Not pruned vectors of palettes, which coremltools fails to make: they are among the tests of the operation.
JOINT: dict[str, Scheme] = {
    "pruned, then palettized": (HALF, palettize(nbits=4)),
    "pruned, then quantized": (HALF, quantize()),
    "pruned, then quantized to int4 per block": (HALF, quantize(dtype="int4", granularity="per_block", block_size=8)),
    "pruned, then palettized with tables of int8": (HALF, palettize(nbits=6), quantize(granularity="per_tensor")),
    "palettized, then pruned": (palettize(nbits=4), HALF),
    "palettized with tables of int8": (palettize(nbits=6), quantize(granularity="per_tensor")),
    "quantized, then pruned": (quantize(mode="linear"), HALF),
    "quantized, then palettized": (quantize(), palettize(mode="kmeans", nbits=4)),
}
AFFINE, LUT, SPARSE = "affine_dequantize", "lut_to_dense", "sparse_to_dense"
BLOCKWISE, LUT_TO_SPARSE, SPARSE_BLOCKWISE = "blockwise_shift_scale", "lut_to_sparse", "sparse_blockwise_shift_scale"
CHAINED = {
    "pruned, then palettized": {LUT_TO_SPARSE, SPARSE},
    "pruned, then quantized": {SPARSE_BLOCKWISE, SPARSE},
    "pruned, then quantized to int4 per block": {SPARSE_BLOCKWISE, SPARSE},
    "pruned, then palettized with tables of int8": {BLOCKWISE, LUT_TO_SPARSE, SPARSE},
    "palettized, then pruned": {LUT_TO_SPARSE, SPARSE},
    "palettized with tables of int8": {BLOCKWISE, LUT},
    "quantized, then pruned": {SPARSE_BLOCKWISE, SPARSE},
    "quantized, then palettized": {LUT, BLOCKWISE},
    "4 bits and a scale per channel": {BLOCKWISE, LUT},
}
"""The operations of weights that take more than one."""
CASES: list[tuple[str, str, dict[str, Scheme]]] = [
    ("iOS16", "fp32", QUANTIZED | PRUNED),
    ("iOS16", "fp32", PALETTIZED),
    ("iOS16", "fp16", QUANTIZED | PRUNED),
    ("iOS16", "fp16", PALETTIZED),
    ("iOS18", "fp16", QUANTIZED | QUANTIZED_IN_BLOCKS),
    ("iOS18", "fp16", PALETTIZED),
    ("iOS18", "fp16", PALETTIZED_IN_GROUPS | PRUNED),
    ("iOS18", "fp16", JOINT),
]
"""Target, precision, and the schemes, of which every layer gets one in turn."""


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Package of a tiny ViT by deployment target and precision."""
    found: dict[tuple[str, str], Path] = {}
    program = captured("vit")

    def package(target: str, precision: str) -> Path:
        if (target, precision) not in found:
            found[target, precision] = path = tmp_path_factory.mktemp("dense") / "model.mlpackage"
            lower(program, ResolvedRecipe(precision=precision, coreml_target=target), path, ())
        return found[target, precision]

    return package


def compress(model: Any, schemes: Mapping[str, Scheme]) -> Any:
    """The first step of every layer, then every second one, and so on."""
    import coremltools.optimize.coreml as cto  # noqa: PLC0415

    for place, (verb, kind) in itertools.product(range(3), VERBS.items()):
        configs = {
            layer: getattr(cto, kind)(weight_threshold=20 if place else 130, **scheme[place][1])
            for layer, scheme in schemes.items()
            if len(scheme) > place and scheme[place][0] == verb
        }
        if configs:
            config = cto.OptimizationConfig(op_name_configs=configs)
            model = getattr(cto, verb.split()[0])(model, config, joint_compression=place > 0)
    return model


def compressed_and_not(path: Path, schemes: Mapping[str, Scheme], folder: Path) -> tuple[MLProgram, MLProgram]:
    """The compressed program, and coremltools' decompression of it."""
    import coremltools.optimize.coreml as cto  # noqa: PLC0415

    with quiet():
        small = compress(load_coremltools().models.MLModel(str(path), skip_model_load=True), schemes)
        dense = cto.decompress_weights(small)
        small.save(str(folder / "small.mlpackage"))
        dense.save(str(folder / "dense.mlpackage"))
    return tuple(read_program(read_package(folder / f"{name}.mlpackage")) for name in ("small", "dense"))


def layers(program: MLProgram) -> list[tuple[str, str]]:
    """Names of the layers, as coremltools configures them, and of their weights."""
    function = program.package.model.mlProgram.functions["main"]
    return [
        (operation.attributes["name"].immediateValue.tensor.strings.values[0], weight.name)
        for operation in function.block_specializations[program.opset].operations
        if operation.type in ("conv", "linear")
        for weight in operation.inputs["weight"].arguments
    ]


def kinds(program: MLProgram, value: str) -> set[str]:
    """Which compressed constants a value is made of."""
    maker = next(one for one in program.operations if value in (output.name for output in one.outputs))
    if not maker.kind.startswith("constexpr_"):
        return set()
    return {maker.kind.removeprefix("constexpr_")}.union(*(kinds(program, name) for name in maker.reads()))


@pytest.mark.parametrize(("target", "precision", "schemes"), CASES)
def test_a_compressed_model(vit, tmp_path: Path, target: str, precision: str, schemes: dict[str, Scheme]) -> None:
    path = vit(target, precision)
    names = [layer for layer, _ in layers(read_program(read_package(path)))]
    assert len(names) >= len(schemes)
    given = dict(zip(names, itertools.cycle(schemes)))
    program, dense = compressed_and_not(path, {layer: schemes[name] for layer, name in given.items()}, tmp_path)
    weights = dict(layers(program))
    single = {"prune": SPARSE, "palettize": LUT, "linear": AFFINE if target == "iOS16" else BLOCKWISE}
    for layer, name in given.items():
        expected = CHAINED.get(name) or {single[schemes[name][0][0].split("_")[0]]}
        assert kinds(program, weights[layer]) == expected, name
    compressed = [
        output.name
        for operation in program.operations
        if operation.kind.startswith("constexpr_")
        for output in operation.outputs
    ]
    # What was needed on the way to a weight only, coremltools has dropped.
    constants = {name: literal.decode() for name, literal in dense.constants() if name in compressed}
    assert constants.keys() >= set(weights.values())
    found = MLProgramInterpreter(program).run({"image": IMAGE}, compressed)
    for name, constant in constants.items():
        assert found[name].numpy().dtype == constant.dtype, name
        assert found[name].shape == constant.shape, name
        assert found[name].numpy().tobytes() == constant.tobytes(), name
    logits = MLProgramInterpreter(dense).run({"image": IMAGE})["logits"]
    assert logits.isfinite().all()
    assert torch.equal(found["logits"], logits)


def ranges(program: MLProgram) -> dict[str, dict[str, float]]:
    """Stands for the calibration of activations, for which coremltools would predict on macOS."""
    found = {"image": IMAGE}

    def watch(operation, results):
        found.update(zip((output.name for output in operation.outputs), results, strict=True))

    MLProgramInterpreter(program).run({"image": IMAGE}, watch=watch)
    return {name: {"rmin": value.min().item(), "rmax": value.max().item()} for name, value in found.items()}


@pytest.mark.parametrize("mode", ["linear_symmetric", "linear"])
def test_quantized_activations(vit, tmp_path: Path, monkeypatch, mode: str) -> None:
    """As `linear_quantize_activations` writes them, with weights of int8, which it can in a program of float16 only."""
    import coremltools.optimize.coreml as cto  # noqa: PLC0415
    from coremltools.optimize import _utils  # noqa: PLC0415

    path = vit("iOS18", "fp16")
    stats = ranges(read_program(read_package(path)))
    monkeypatch.setattr(cto._post_training_quantization, "_get_activation_calibration_stats", lambda *_: stats)
    config = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig(mode=mode, weight_threshold=130))
    with quiet():
        model = load_coremltools().models.MLModel(str(path), skip_model_load=True)
        model = cto.linear_quantize_weights(cto.linear_quantize_activations(model, config, []), config)
        model.save(str(tmp_path / "small.mlpackage"))
    program = read_program(read_package(tmp_path / "small.mlpackage"))
    steps = [operation for operation in program.operations if operation.kind in ("quantize", "dequantize")]
    assert sum(step.kind == "quantize" for step in steps) > 10
    names = {name for step in steps for name in (*step.reads(), step.name)}
    found = MLProgramInterpreter(program).run({"image": IMAGE}, names)
    values = {name: value.numpy() for name, value in found.items() if isinstance(value, torch.Tensor)}
    for step in steps:
        bound = {name: values[argument.name] for name, (argument,) in step.inputs.items() if argument.name in values}
        zero, scale = bound.get("zero_point"), np.float32(bound["scale"])
        if step.kind == "quantize":
            stated = _utils.quantize_by_scale_and_zp(np.float32(bound["input"]), scale, zero, "int8")
        else:
            stated = _utils.dequantize_by_scale_and_zp(bound["input"], bound["scale"], zero)
        assert values[step.name].dtype == stated.dtype
        np.testing.assert_array_equal(values[step.name], stated)
    dense = MLProgramInterpreter(read_program(read_package(path))).run({"image": IMAGE})["logits"].float()
    apart = (found["logits"].float() - dense).norm() / dense.norm()
    assert 0 < apart < 0.2

# SPDX-License-Identifier: Apache-2.0
"""Parity of Core ML packages of every family on this machine: two targets, and both ways into coremltools."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.export.coreml.foreign import convert
from tests.export.coreml.models import FAMILIES, captured
from tests.family_map_files import settled
from tests.seeding import seeded
from vitedge.checkpoints.read import read
from vitedge.demo.assets import IMAGES, MODELS, images
from vitedge.export.float16.noise import find_noisy
from vitedge.export.to_coreml import lower
from vitedge.images.image_set import load
from vitedge.images.synthetic import synthesize
from vitedge.mlprogram.package import MODEL, read_package
from vitedge.models.reference import load_reference
from vitedge.parity.artifact import ReferenceOutputs, outputs_of
from vitedge.parity.metrics import compare
from vitedge.parity.reference import gather
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe
from vitedge.records import OutputParity, Tolerance
from vitedge.runtimes.mlprogram import Runtime

MEMBERS = ("vit", "deit", "pit", "mobilevit", "mobilevitv2", "swin")
TRACED = ("deit", "mobilevitv2", "swin")
"""Plain tokens, convolutions with a group norm, and windows: what coremltools makes of a trace depends on no more."""
FEW = ("vit", "mobilevitv2", "swin")
"""Plain tokens, convolutions and windows: `make test` tries these in both precisions, the others in float16 alone."""
DEMO_MODELS = {demo.name: demo for demo in MODELS}
COUNT = 8
HALF_DB = 45.0


@cache
def model(family: str) -> tuple[nn.Module, int]:
    build, size, _ = FAMILIES[family]
    module = seeded(build())
    if family.startswith("mobilevit"):
        settled(module, size)
    return module, size


@cache
def pixels(size: int) -> torch.Tensor:
    """Textures of different colours: a tiny model with seeded weights tells little else apart."""
    colours = torch.randn(COUNT, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(synthesize(COUNT, size, size, 1)) / 255 * 0.5 + colours


@cache
def expected(family: str) -> np.ndarray:
    module, size = model(family)
    with torch.inference_mode():
        return torch.cat([module(image[None]) for image in pixels(size)]).numpy()


@cache
def program_of(family: str) -> Program:
    module, _ = model(family)
    return capture(module, captured(family).spec, FAMILIES[family][2])


Packages = Callable[[str, str, str, str], Path]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Writes a package of a family through vitedge (which goes in by ``torch.export``), or by coremltools alone: once.

    Takes family, target, ``export`` or ``trace``, and precision. Packages are not to be changed.
    """

    @cache
    def written(family: str, target: str, front: str, precision: str) -> Path:
        path = tmp_path_factory.mktemp(family) / "model.mlpackage"
        module, size = model(family)
        program, half = program_of(family), precision == "fp16"
        single = find_noisy(program, pixels(size)[:4], [expected(family)], HALF_DB) if half else ()
        if front == "trace":
            return convert(module, size, path, target, half=half, single=single)
        lower(program, ResolvedRecipe(coreml_target=target, precision=precision), path, single)
        return path

    return written


def parity(family: str, path: Path) -> OutputParity:
    images = pixels(model(family)[1])
    with Runtime(path) as runtime:
        (image,), (logits,) = runtime.inputs, runtime.outputs
        found = np.concatenate([runtime.run({image.name: one[None].numpy()})[logits.name] for one in images])
    (result,) = compare({"logits": expected(family)}, {"logits": found})
    assert not result.degenerate
    return result


@pytest.mark.parametrize(
    ("family", "target", "front"),
    [
        *((family, "iOS16", "export") for family in FEW),
        *(pytest.param(family, "iOS16", "export", marks=pytest.mark.slow) for family in MEMBERS if family not in FEW),
        *((family, "iOS18", "trace") for family in TRACED),
    ],
)
def test_a_program_in_float32_computes_what_pytorch_computes(
    family: str, target: str, front: str, packages: Packages
) -> None:
    result = parity(family, packages(family, target, front, "fp32"))
    assert result.relative_error <= (1e-4 if family == "mobilevitv2" else 1e-5)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_tanh_gelu_in_place_of_the_exact_one_is_seen(family: str, packages: Packages, tmp_path: Path) -> None:
    path = Path(shutil.copytree(packages(family, "iOS16", "export", "fp32"), tmp_path / "model.mlpackage"))
    model = read_package(path).model
    for operation in model.mlProgram.functions["main"].block_specializations["CoreML6"].operations:
        if operation.type == "const" and operation.outputs[0].name.endswith("mode_0"):
            strings = operation.attributes["val"].immediateValue.tensor.strings
            strings.values[:] = ["TANH_APPROXIMATION" if text == "EXACT" else text for text in strings.values]
    (path / MODEL).write_bytes(model.SerializeToString())
    assert parity(family, path).relative_error > 1e-5


@pytest.mark.parametrize(  # in float32 each way in takes the other target
    ("family", "target", "front"),
    [
        *((family, "iOS18", "export") for family in MEMBERS),
        ("swin", "iOS16", "trace"),
        *(pytest.param(family, "iOS16", "trace", marks=pytest.mark.slow) for family in TRACED if family != "swin"),
    ],
)
def test_a_program_in_float16_holds_45_db(family: str, target: str, front: str, packages: Packages) -> None:
    result = parity(family, packages(family, target, front, "fp16"))
    assert result.centred_sqnr_db >= HALF_DB


@cache
def trained(name: str) -> tuple[ReferenceOutputs, Program]:
    """The outputs of an embedded model for all 540 test images, and its program."""
    demo = DEMO_MODELS[name]
    reference = load_reference(read(str(demo.path), overrides=demo.overrides))
    outputs = gather(reference, load(str(IMAGES), reference.spec, len(images()[1])), Tolerance(), features=False)
    module = reference.deployed(uint8=True, features=False)
    return outputs, capture(module, reference.spec, reference.blocks, batch=30, dtype="uint8")


@pytest.mark.parametrize(  # PiT in float32 is what the demo writes and its test counts
    ("name", "precision"),
    [
        ("PiT", "fp16"),
        ("MobileViT", "fp16"),
        pytest.param("ViT", "fp16", marks=pytest.mark.slow),
        pytest.param("MobileViT", "fp32", marks=pytest.mark.slow),
    ],
)
def test_the_trained_models_keep_their_top_1(name: str, precision: str, tmp_path: Path) -> None:
    """Over all 540 test images."""
    reference, program = trained(name)
    path = tmp_path / "model.mlpackage"
    artifact = lower(program, ResolvedRecipe(precision=precision, input="uint8"), path, ())
    with Runtime(path) as runtime:
        (result,) = compare(reference.data.outputs, outputs_of(runtime, artifact, reference))
    assert result.agreement == 1.0
    assert result.centred_sqnr_db >= (100 if precision == "fp32" else HALF_DB)
    assert result.relative_error <= (1e-5 if precision == "fp32" else 1e-2)

# SPDX-License-Identifier: Apache-2.0
"""Faults put into Core ML packages: each is caught, and the layer that is named is the one that has it."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from timm.models import mobilevit
from timm.models.byobnet import ByobNet, ByoModelCfg

from tests import damage
from tests.export.coreml import models as coreml_models
from tests.export.coreml.foreign import convert
from tests.export.coreml.models import CLASSES, FAMILIES, captured
from tests.seeding import seeded
from vitedge.errors import CheckFailed
from vitedge.export.coreml.expected_weights import expected_weights
from vitedge.export.coreml.weights import compare_weights
from vitedge.export.to_coreml import lower
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import read_program
from vitedge.parity.coreml.layers import LayerComparison, compare_program
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe


def tiny_mobilevit() -> ByobNet:
    """Two stages, with one transformer block in the second."""
    attention = mobilevit._mobilevit_block(d=1, c=24, s=2, transformer_dim=32, transformer_depth=2)
    stages = (mobilevit._inverted_residual_block(d=1, c=16, s=2), attention)
    configuration = ByoModelCfg(
        blocks=stages, stem_chs=16, stem_type="3x3", stem_pool="", downsample="", act_layer="silu", num_features=32
    )
    return ByobNet(configuration, num_classes=CLASSES)


BLOCKS = {
    "vit": "blocks.1",
    "pit": "transformers.1.blocks.0",
    "mobilevit": "stages.1.1.transformer.1",
    "swin": "layers.1.blocks.1",
}
"""Family to a transformer block in the middle of its model."""
PACKAGES = [
    ("vit", "fp32"),
    ("pit", "fp16"),
    ("mobilevit", "fp32"),
    ("mobilevit", "fp16"),
    ("swin", "fp16"),
    ("vit", "foreign fp32"),
    ("swin", "foreign fp16"),
]
"""Family and conversion: every family, both conversions, in both precisions; folded convolutions in both, too."""


@dataclass(frozen=True)
class Sound:
    """A package without a fault, and what it was made of."""

    path: Path
    program: Program
    block: str

    @cached_property
    def images(self) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(self.program.inputs[0].shape, np.float32)

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.path, folder / self.path.name))

    def layers(self, path: Path) -> LayerComparison:
        return compare_program(path, self.program, self.images)

    def weights(self, path: Path) -> str:
        """The reason why the weights are refused, or empty."""
        try:
            compare_weights(read_program(read_package(path)), expected_weights(self.program))
        except CheckFailed as error:
            return str(error)
        return ""

    def constant(self, name: str) -> str:
        """Returns the package's name for a weight of the block."""
        stem = f"{self.block}.{name}".replace(".", "_")
        return next(found for found in damage.constants(self.path) if found in (stem, f"{stem}_to_fp16"))


@pytest.fixture(scope="module")
def made() -> dict[tuple[str, str], Sound]:
    return {}


@pytest.fixture(params=PACKAGES, ids=" ".join)
def sound(
    request: pytest.FixtureRequest, made: dict[tuple[str, str], Sound], tmp_path_factory: pytest.TempPathFactory
) -> Sound:
    family, conversion = request.param
    if request.param not in made:
        path = tmp_path_factory.mktemp("sound") / "model.mlpackage"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(coreml_models.FAMILIES, "mobilevit", (tiny_mobilevit, 64, ("stages.0", "stages.1")))
            program = captured(family)
            if conversion.startswith("foreign"):
                build, size, _ = FAMILIES[family]
                convert(seeded(build()), size, path, "iOS16", half=conversion.endswith("16"))
            else:
                lower(program, ResolvedRecipe(formats=("coreml",), precision=conversion), path, ())
        made[request.param] = Sound(path, program, BLOCKS[family])
    return made[request.param]


def module_of(layer: str) -> str:
    return layer.partition(" ")[0]


def test_a_sound_package_passes(sound: Sound) -> None:
    found = sound.layers(sound.path)
    assert found.first_departure == ""
    assert found.unmatched == ()
    assert found.unchecked == ()
    assert sound.weights(sound.path) == ""
    assert sound.block in {module_of(row.output).rpartition(".")[0] for row in found.layers}


@pytest.mark.parametrize(
    ("name", "bit"), [("mlp.fc1.weight", "lowest"), ("attn.qkv.bias", "middle"), ("norm2.weight", "sign")]
)
def test_a_flipped_bit_is_found_in_its_weight(sound: Sound, tmp_path: Path, name: str, bit: str) -> None:
    path = sound.copy(tmp_path)
    constant = sound.constant(name)
    width = 16 if constant.endswith("_fp16") else 32
    damage.flip_bit(path, constant, 7, {"lowest": 0, "middle": width // 2 - 1, "sign": width - 1}[bit])
    module = f"{sound.block}.{name.rpartition('.')[0]}"
    size = math.prod(damage.constants(path)[constant])
    reason = sound.weights(path)
    assert f": 1 of {size} values differ from what module {module} has" in reason
    assert constant in reason
    if bit == "sign":
        assert module_of(sound.layers(path).first_departure) == module


def test_a_swapped_transpose_is_found_in_its_module(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path)
    damage.undo_transpose(path, damage.before(path, sound.constant("attn.proj.weight"), "transpose"))
    assert module_of(sound.layers(path).first_departure) == f"{sound.block}.attn"
    assert sound.weights(path) == ""


@pytest.mark.parametrize("name", ["norm1.weight", "mlp.fc2.weight"])
def test_a_weight_off_by_a_hundredth_is_found(sound: Sound, tmp_path: Path, name: str) -> None:
    path = sound.copy(tmp_path)
    damage.scale_weight(path, sound.constant(name))
    module = f"{sound.block}.{name.rpartition('.')[0]}"
    assert module_of(sound.layers(path).first_departure) == module
    assert f" differ from what module {module} has" in sound.weights(path)


def test_an_attention_scale_off_by_a_hundredth_is_found(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path)
    damage.scale_number(path, damage.before(path, sound.constant("attn.proj.weight"), "mul"))
    assert module_of(sound.layers(path).first_departure) == f"{sound.block}.attn"


@pytest.mark.parametrize("sound", [name for name in PACKAGES if name[0] != "mobilevit"], ids=" ".join, indirect=True)
def test_a_tanh_gelu_is_found(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path)
    damage.approximate_gelu(path, damage.before(path, sound.constant("mlp.fc2.weight"), "gelu"))
    found = module_of(sound.layers(path).first_departure)
    assert found.replace(".mlp.drop1", ".mlp.act") == f"{sound.block}.mlp.act"  # PyTorch 2.11 names the dropout


@pytest.mark.parametrize("sound", [name for name in PACKAGES if name[0] == "mobilevit"], ids=" ".join, indirect=True)
def test_a_fault_in_a_folded_convolution_is_found(sound: Sound, tmp_path: Path) -> None:
    path = sound.copy(tmp_path)
    convolution = next(name for name in damage.names(path, "conv") if name.startswith("stages_0_0_conv2_kxk"))
    damage.scale_weight(path, damage.bound(path, convolution, "weight"))
    assert module_of(sound.layers(path).first_departure) == "stages.0.0.conv2_kxk.bn"
    assert "what module stages.0.0.conv2_kxk.conv has" in sound.weights(path)
    path = sound.copy(tmp_path / "bit")
    damage.flip_bit(path, damage.bound(path, convolution, "bias"), 3, 0)
    assert ": 1 of 64 values differ from what module stages.0.0.conv2_kxk.bn has" in sound.weights(path)

# SPDX-License-Identifier: Apache-2.0
"""The reference: a PyTorch module with the checkpoint's own weights, which everything else is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vitedge.checkpoints.families.family import State
from vitedge.checkpoints.read import Checkpoint, read
from vitedge.errors import ImpossibleSize, WeightsMismatch
from vitedge.images.preprocess import normalize
from vitedge.models import beit, mobilevit, mobilevitv2, pit, swin, timm, vit
from vitedge.records import ModelSpec, Preprocessing, TensorSpec
from vitedge.records.showing import Shown

BUILDERS: dict[str, ModuleType] = {
    "vit": vit,
    "beit": beit,
    "pit": pit,
    "mobilevit": mobilevit,
    "mobilevitv2": mobilevitv2,
    "swin": swin,
    "timm": timm,
}
"""`ModelSpec.family` to the module that builds it; all have the public names of `vitedge.models.family.Builder`."""

_FORWARD_BATCH = 4
"""Images in one forward pass of the reference: enough for speed, little enough for the memory of a ViT-H."""
LARGEST_IMAGE = 4096 * 4096
"""Most pixels of an image: twice the edge that any family is published for; a larger size is a typing error."""
_NAMED = 6
"""Number of weights that an error names before it only counts them."""


@dataclass(frozen=True, repr=False)
class Reference(Shown):
    """The PyTorch model of a checkpoint at one image size. Never altered."""

    module: nn.Module
    spec: ModelSpec

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the modules whose outputs artifacts are compared at."""
        blocks: tuple[str, ...] = BUILDERS[self.spec.family].blocks(self.spec)
        return blocks

    def deployed(self, *, uint8: bool, features: bool) -> nn.Module:
        """Returns the module to capture: the reference itself, or wrapped in what the export adds to it.

        Args:
            uint8: whether to normalize inside the module, whose input is then the RGB image, 0 to 255.
            features: whether to return tokens and pooled features instead of logits.
        """
        if not uint8 and not features:
            return self.module
        return Deployed(self, uint8=uint8, features=features).eval()

    @torch.inference_mode()
    def outputs(self, images: npt.NDArray[np.uint8], *, features: bool) -> dict[str, npt.NDArray[np.float32]]:
        """Computes the outputs for images ``(images, channels, height, width)``, RGB, 0 to 255, by output name."""
        module = self.deployed(uint8=False, features=features)
        parts = []
        for start in range(0, len(images), _FORWARD_BATCH):
            batch = normalize(images[start : start + _FORWARD_BATCH], self.spec.preprocessing)
            result = module(torch.from_numpy(batch))
            parts.append(result if isinstance(result, tuple) else (result,))
        return {
            name: torch.cat([part[index] for part in parts]).numpy()
            for index, name in enumerate(output_names(features=features))
        }

    @torch.inference_mode()
    def block_outputs(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Computes the output of every block for a few images, by module name."""
        found: dict[str, npt.NDArray[np.float32]] = {}

        def keep(name: str) -> object:
            def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
                # A block that merges tokens also returns what merged.
                first = output[0] if isinstance(output, tuple) else output
                found[name] = first.detach().clone().numpy()

            return hook

        handles = [self.module.get_submodule(name).register_forward_hook(keep(name)) for name in self.blocks]  # type: ignore[arg-type]
        try:
            self.module(torch.from_numpy(normalize(images, self.spec.preprocessing)))
        finally:
            for handle in handles:
                handle.remove()
        return found


class Normalization(nn.Module):
    """Scaling, channel order and normalization of an RGB image ``(batch, channels, height, width)``, 0 to 255."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.is_bgr = preprocessing.channel_order == "bgr"
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Takes the same steps in the same order as `vitedge.images.preprocess.normalize`."""
        scaled = image.to(torch.float32)
        if self.is_bgr:
            scaled = scaled.flip(1)
        return (scaled / 255 - self.mean) / self.std


class Deployed(nn.Module):
    """The reference with the normalization before it and the choice of outputs after it that an export adds."""

    def __init__(self, reference: Reference, *, uint8: bool, features: bool) -> None:
        super().__init__()
        self.model = reference.module
        self.normalization = Normalization(reference.spec.preprocessing) if uint8 else nn.Identity()
        self._features = BUILDERS[reference.spec.family].features if features else None

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns logits, or tokens and pooled features."""
        normalized = self.normalization(image)
        if self._features is None:
            logits: Tensor = self.model(normalized)
            return logits
        tokens, pooled = self._features(self.model, normalized)
        return tokens, pooled


def output_names(*, features: bool) -> tuple[str, ...]:
    """Returns the names of the outputs of every artifact."""
    return ("tokens", "pooled") if features else ("logits",)


def load_reference(checkpoint: Checkpoint, image_size: tuple[int, int] | None = None) -> Reference:
    """Builds the reference of a checkpoint, at its own or at another image size in pixels (height, width).

    The module's parameters are the checkpoint's tensors themselves, memory-mapped where the file allows it.

    Raises:
        WeightsMismatch: a weight is missing, left over or of another shape.
        ImpossibleSize: the family cannot be rebuilt at that size; the message names sizes that can.
    """
    builder = BUILDERS[checkpoint.spec.family]
    module = skeleton(checkpoint.spec)
    check_fit(module, checkpoint.state, checkpoint.source)
    state, spec = checkpoint.state, checkpoint.spec
    if image_size is not None and image_size != spec.image_size:
        _refuse_huge(image_size)
        state, spec = builder.resize(state, spec, image_size)
        module = skeleton(spec)
    module.load_state_dict(state, strict=True, assign=True)
    _materialize(module)
    return Reference(module.eval().requires_grad_(requires_grad=False), spec)


def measured(
    source: str, image_size: list[int] | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[nn.Module, tuple[TensorSpec, ...]]:
    """Returns a checkpoint's module and its input, for a process that measures PyTorch. Takes plain JSON values."""
    size = None if image_size is None else (image_size[0], image_size[1])
    found = load_reference(read(source, overrides=overrides), size)
    image = TensorSpec("image", ("batch", found.spec.in_channels, *found.spec.image_size), "float32")
    return found.module, (image,)


def skeleton(spec: ModelSpec) -> nn.Module:
    """Builds the module of a spec on torch's meta device, without memory for its weights.

    Raises:
        ImpossibleSize: the image would take all memory.
    """
    _refuse_huge(spec.image_size)
    with torch.device("meta"):
        module: nn.Module = BUILDERS[spec.family].build(spec)
    return module.eval()


def check_fit(module: nn.Module, state: State, source: str) -> None:
    """Refuses weights that are missing, left over, or of another shape than the module's.

    Raises:
        WeightsMismatch: names them.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    faults = [
        *(f"{name} is missing" for name in expected if name not in found),
        *(f"{name} is left over" for name in found if name not in expected),
        *(
            f"{name} is {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ),
    ]
    if faults:
        more = f", and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise WeightsMismatch(f"{source} does not fit its architecture: {', '.join(faults[:_NAMED])}{more}.")


def _refuse_huge(image_size: tuple[int, int]) -> None:
    height, width = image_size
    if height * width > LARGEST_IMAGE:
        raise ImpossibleSize(
            f"An image of {height}x{width} pixels is too large: {LARGEST_IMAGE} pixels are the most, such as 4096x4096."
        )


def _materialize(module: nn.Module) -> None:
    """Computes the buffers that no checkpoint holds, such as Swin's attention masks, on the processor."""
    for part in _with_meta_buffers(module):
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                part.register_buffer(name, torch.empty_like(buffer, device="cpu"), persistent=False)
        part.init_non_persistent_buffers()  # type: ignore[operator]


def _with_meta_buffers(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.modules():
        if any(buffer.is_meta for _, buffer in part.named_buffers(recurse=False)):
            yield part

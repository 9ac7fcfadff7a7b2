# SPDX-License-Identifier: Apache-2.0
"""Tries what exports on this machine: a tiny model is captured, lowered to each format, and compared with PyTorch.

It runs in a process of its own, and a line of JSON is written of each trial, as `vitedge.devices.health.trials` does.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from vitedge import registry
from vitedge.devices.health.trials import ElsewhereError, imported, need_gpu, run
from vitedge.errors import MissingBackend
from vitedge.runtimes.plan import LIBRARIES as LIBRARIES_OF_ENGINES

_SIZE, _WIDTH, _CLASSES = 16, 16, 5
_TOLERANCE = 1e-4
"""Largest difference of the logits, relative to their largest value."""
_TARGET = "SM86"
"""Compute capability of the engine that is built: any that TensorRT for RTX knows will do, without a GPU."""


def _torch() -> dict[str, Any]:
    _program()
    return registry.versions(("torch", "torchvision", "timm"))


def _onnx() -> dict[str, Any]:
    for package in ("numpy", "onnx", "onnxscript", "onnx_ir", "onnxruntime"):
        imported(package)
    _compare("vitedge.runtimes.onnxruntime:Runtime", _lowered("onnx"))
    return registry.versions(("onnx", "onnxscript", "onnxruntime"))


def _coreml() -> dict[str, Any]:
    imported("coremltools")
    _lowered("coreml")
    return registry.versions(("coremltools", "numpy"))


def _mlprogram() -> dict[str, Any]:
    imported("coremltools")
    _compare("vitedge.runtimes.mlprogram:Runtime", _lowered("coreml"))
    return registry.versions(("coremltools",))


def _trace() -> dict[str, Any]:
    """Converts a traced model, which vitedge does not, but what people have beside it does."""
    coremltools = imported("coremltools")
    import torch  # noqa: PLC0415 - what is not installed is found by its trial

    class Flattened(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.reshape(image.shape[0], -1) * 2

    shape = (1, 3, 4, 4)
    traced = torch.jit.trace(Flattened().eval(), torch.zeros(shape))  # type: ignore[no-untyped-call]
    tensor = coremltools.TensorType(name="image", shape=shape)
    coremltools.convert(traced, inputs=[tensor], convert_to="mlprogram", skip_model_load=True)
    return registry.versions(("coremltools", "numpy"))


def _engine(builder: str) -> dict[str, Any]:
    """Builds an engine; TensorRT for RTX needs no GPU for that, TensorRT builds for the one that is here."""
    part = LIBRARIES_OF_ENGINES[builder]
    try:
        imported(part.module)
    except ModuleNotFoundError:
        _refuse(builder)  # there nobody should install it
        raise
    _refuse(builder)
    from vitedge.export.tensorrt import building  # noqa: PLC0415 - as above
    from vitedge.export.tensorrt.request import EngineRequest  # noqa: PLC0415

    onnx = _lowered("onnx")
    targets = (_TARGET,) if builder == "tensorrt-rtx" else ()
    built = building.build(EngineRequest(onnx, onnx.with_suffix(f".{builder}.engine"), targets), builder)
    return {"version": built.version}


def _refuse(builder: str) -> None:
    """Raises `ElsewhereError` where engines cannot be built, whatever is installed."""
    if platform.system() not in ("Linux", "Windows"):
        raise ElsewhereError("NVIDIA publishes it for Linux and Windows")
    if builder == "tensorrt":
        need_gpu()


@cache
def _program() -> tuple[Any, Any]:
    """Returns a tiny vision transformer, and its captured program."""
    for package in ("numpy", "torch", "torchvision", "timm"):
        imported(package)
    import torch  # noqa: PLC0415 - as above
    from timm.models.vision_transformer import VisionTransformer  # noqa: PLC0415

    from vitedge.program.canonical import canonicalize  # noqa: PLC0415
    from vitedge.program.capture import capture  # noqa: PLC0415
    from vitedge.records import ModelSpec, Preprocessing  # noqa: PLC0415

    torch.manual_seed(0)
    module = VisionTransformer(
        img_size=_SIZE, patch_size=8, embed_dim=_WIDTH, depth=1, num_heads=1, mlp_ratio=2, num_classes=_CLASSES
    ).eval()
    torch.nn.init.normal_(module.get_classifier().weight)
    spec = ModelSpec(
        family="vit", variant="tiny", naming="timm", image_size=(_SIZE, _SIZE), in_channels=3, classes=_CLASSES,
        widths=(_WIDTH,), depths=(1,), heads=(1,), mlp_ratios=(2.0,), patch=8, tokens=("class",), norm_eps=1e-6,
        activation="gelu", preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    )  # fmt: skip
    return module, canonicalize(capture(module, spec, ("blocks.0",)))


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vitedge-")


@cache
def _lowered(name: str) -> Path:
    """Returns the tiny model in a format."""
    from vitedge.export.formats import FORMATS, LOWERINGS  # noqa: PLC0415 - as above
    from vitedge.recipe import ResolvedRecipe  # noqa: PLC0415

    program = _program()[1]
    out = Path(_folder().name) / FORMATS[name].file
    registry.imported(LOWERINGS[name]).lower(program, ResolvedRecipe(formats=(name,)), out, ())
    return out


def _compare(runtime: str, path: Path) -> None:
    import numpy as np  # noqa: PLC0415 - as above
    import torch  # noqa: PLC0415

    image = np.random.default_rng(0).standard_normal((1, 3, _SIZE, _SIZE)).astype(np.float32)
    with torch.no_grad():
        expected = _program()[0](torch.from_numpy(image)).numpy()
    with registry.function(runtime)(path) as opened:
        found = opened.run({opened.inputs[0].name: image})
    error = float(np.abs(next(iter(found.values())) - expected).max() / np.abs(expected).max())
    if not error <= _TOLERANCE:
        raise RuntimeError(f"a tiny model departs from PyTorch by {error:.1e} of its largest output")


def _unwrapped(trial: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Runs a trial; raises the library's own error where ours only says what to install."""
    try:
        return trial()
    except MissingBackend as missing:
        raise (missing.__cause__ or missing) from None


TRIALS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch,
    "onnx": partial(_unwrapped, _onnx),
    "coreml": partial(_unwrapped, _coreml),
    "mlprogram": partial(_unwrapped, _mlprogram),
    "trace": _trace,
    "tensorrt-rtx": partial(_engine, "tensorrt-rtx"),
    "tensorrt": partial(_engine, "tensorrt"),
}
"""Name to what is tried."""
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch", "torchvision", "timm"),
    "onnx": ("torch", "timm", "onnx", "onnxscript", "onnx_ir", "onnxruntime"),
    "coreml": ("torch", "timm", "coremltools"),
    "mlprogram": ("torch", "timm", "coremltools"),
    "trace": ("torch", "coremltools"),
    "tensorrt-rtx": ("tensorrt_rtx",),
    "tensorrt": ("tensorrt",),
}
"""Trial to the packages without which it is not installed."""

if __name__ == "__main__":
    run(sys.argv[1:], TRIALS, LIBRARIES)

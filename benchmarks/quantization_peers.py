# SPDX-License-Identifier: Apache-2.0
"""The post-training quantizers that ours is compared with, each in a process of its own and with its defaults.

``python -m benchmarks.quantization_peers METHOD MODEL.onnx IMAGES.npy OUT`` quantizes one float32 model of batch 1 by
one method of `PEERS`; `quantize` starts that. NNCF and OpenVINO are needed by these benchmarks alone:
``pip install 'nncf>=3.0' 'openvino>=2025.0'``.
"""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

INPUT = "image"
PACKAGES = ("onnxruntime", "onnx", "nncf", "openvino", "numpy")


@dataclass(frozen=True)
class Peer:
    """One method of one tool."""

    title: str
    write: Callable[[Path, np.ndarray[Any, Any], Path], None]
    """Takes the float32 ONNX file, the images ``(count, 3, height, width)`` and where to write."""
    suffix: str
    runtime: str
    """The name in `vitedge.registry.RUNTIMES` of what runs the result."""
    needs: tuple[str, ...]


def by_nncf_on_onnx(model: Path, images: np.ndarray[Any, Any], out: Path) -> None:
    """``nncf.quantize`` of the ONNX model, with the one setting that its documentation asks for with transformers."""
    import nncf
    import onnx

    quantized = nncf.quantize(onnx.load(model), _nncf_images(images), model_type=nncf.ModelType.TRANSFORMER)
    onnx.save(quantized, out)


def by_nncf_on_openvino(model: Path, images: np.ndarray[Any, Any], out: Path) -> None:
    """``nncf.quantize`` of the same model as OpenVINO reads it; what NNCF's users deploy on processors."""
    import nncf
    import openvino

    read = openvino.Core().read_model(model)
    quantized = nncf.quantize(read, _nncf_images(images), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(quantized, out, compress_to_fp16=False)


def _nncf_images(images: np.ndarray[Any, Any]) -> Any:
    import nncf

    return nncf.Dataset(list(images), lambda image: {INPUT: image[None]})


def by_onnxruntime_dynamic(model: Path, images: np.ndarray[Any, Any], out: Path) -> None:
    """ONNX Runtime's `quantize_dynamic`: int8 weights per channel, activations by their range in each run."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    del images  # it needs none
    quantize_dynamic(model, out, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])


def by_onnxruntime_static(model: Path, images: np.ndarray[Any, Any], out: Path) -> None:
    """ONNX Runtime's `quantize_static` as it is called without any setting: Q/DQ, ranges by minimum and maximum."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        """The images, one after the other."""

        def __init__(self) -> None:
            self._images: Iterator[Any] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._images, None)
            return None if image is None else {INPUT: image[None]}

    quantize_static(model, out, Reader())


PEERS = {
    "nncf-onnx": Peer("NNCF on ONNX", by_nncf_on_onnx, ".onnx", "onnxruntime", ("nncf",)),
    "nncf-openvino": Peer("NNCF on OpenVINO", by_nncf_on_openvino, ".xml", "openvino", ("nncf", "openvino")),
    "dynamic": Peer("ONNX Runtime dynamic", by_onnxruntime_dynamic, ".onnx", "onnxruntime", ()),
    "static": Peer("ONNX Runtime static", by_onnxruntime_static, ".onnx", "onnxruntime", ()),
}


def quantize(method: str, model: Path, images: Path, folder: Path) -> Path:
    """Has a peer quantize a model in a process of its own.

    Args:
        method: a key of `PEERS`.
        model: ONNX, float32, batch 1, its input named ``image``.
        images: an ``.npy`` of ``(count, 3, height, width)`` float32, preprocessed.
        folder: where ``METHOD`` with the peer's suffix is written.

    Raises:
        SystemExit: a package is missing, or the peer failed; the sentence says which.
    """
    peer = PEERS[method]
    absent = [package for package in peer.needs if importlib.util.find_spec(package) is None]
    if absent:
        raise SystemExit(f"{peer.title} needs {', '.join(absent)}; type: pip install 'nncf>=3.0' 'openvino>=2025.0'")
    out = folder / f"{method}{peer.suffix}"
    command = [sys.executable, "-m", "benchmarks.quantization_peers", method, str(model), str(images), str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{peer.title} failed on {model}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return out


def main() -> None:
    """The process of one peer."""
    method, model, images, out = sys.argv[1], *(Path(argument) for argument in sys.argv[2:5])
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    PEERS[method].write(model, np.load(images), out)


if __name__ == "__main__":
    main()

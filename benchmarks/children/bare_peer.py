# SPDX-License-Identifier: Apache-2.0
"""Quantizes a checkpoint as a user of a peer does: PyTorch's own exporter, then the peer with its defaults.

``python -m benchmarks.children.bare_peer TIMM_NAME METHOD CHECKPOINT FOLDER`` reads ``normalized.npy`` of the folder,
and writes ``METHOD`` with the peer's suffix there.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import timm
import torch

from benchmarks.quantization_peers import INPUT, PEERS


def main(name: str, method: str, checkpoint: str, folder: Path) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    module = timm.create_model(name).eval()
    module.load_state_dict(torch.load(checkpoint))
    images = np.load(folder / "normalized.npy")
    exported = folder / f"{method}-float.onnx"
    torch.onnx.export(
        module, (torch.from_numpy(images[:1]),), exported, input_names=[INPUT], dynamo=True, verbose=False
    )
    PEERS[method].write(exported, images, folder / f"{method}{PEERS[method].suffix}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))

# SPDX-License-Identifier: Apache-2.0
"""Images that 2:4 sparse weights cost the demo's models: ``python -m benchmarks.sparsity_demo``.

Weights are selected on images of the training split, and what is lost is counted once on the 540 test images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.export_cost import provenance
from benchmarks.train_demo import prepare_all, split_digits
from vitedge.checkpoints.read import read
from vitedge.demo.assets import MODELS, DemoModel, images
from vitedge.images.preprocess import as_image, normalize, prepare_image
from vitedge.models.reference import Reference, load_reference
from vitedge.parity.metrics import compare
from vitedge.pruning.draft import Batches, Draft
from vitedge.pruning.recipe import CALIBRATION_COUNT, PruningRecipe, Selection
from vitedge.pruning.sparse import sparsify

RESULTS = Path(__file__).parent / "results" / "sparsity_demo.json"
PATTERNS: tuple[str | float, ...] = ("2:4", 0.5)


def logits(module: torch.nn.Module, reference: Reference) -> tuple[NDArray[np.float32], int]:
    """Returns the logits of the test images, and how many of them are right."""
    pixels, labels = images()
    prepared = np.stack([prepare_image(as_image(image), reference.spec) for image in pixels])
    with torch.no_grad():
        found = module(torch.from_numpy(normalize(prepared, reference.spec.preprocessing))).numpy()
    return found, int((found.argmax(1) == labels).sum())


def rows(model: DemoModel) -> Iterator[dict[str, Any]]:
    """Yields a row for each pattern and selection."""
    reference = load_reference(read(str(model.path), overrides=model.overrides))
    chosen = np.random.default_rng(0).permutation(len(split_digits()[0]))[:CALIBRATION_COUNT]
    calibration = Batches(prepare_all(split_digits()[0][chosen], reference.spec), reference.spec.preprocessing)
    dense, right = logits(reference.module, reference)
    for pattern in PATTERNS:
        for selection in Selection:
            draft, start = Draft.of(reference, calibration), time.perf_counter()
            record = sparsify(draft, PruningRecipe(sparsity=pattern, selection=selection))
            seconds = time.perf_counter() - start
            sparse, kept = logits(draft.module, reference)
            zeroed = [layer for layer in record.layers if layer.pattern]
            yield {
                "model": model.name,
                "sparsity": str(pattern),
                "selection": str(selection.value),
                "right": kept,
                "lost": right - kept,
                "sqnr_db": round(compare({"logits": dense}, {"logits": sparse})[0].centred_sqnr_db, 2),
                "layers": [len(zeroed), len(record.layers)],
                "layer_error": round(float(np.mean([layer.error for layer in zeroed])), 4),
                "seconds": round(seconds, 1),
            }


def main() -> None:
    """Writes the result."""
    found = []
    for model in MODELS:
        for row in rows(model):
            print(json.dumps(row), flush=True)
            found.append(row)
    content = {"provenance": provenance(), "test_images": 540, "calibration_images": CALIBRATION_COUNT, "rows": found}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

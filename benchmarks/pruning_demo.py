# SPDX-License-Identifier: Apache-2.0
"""Images that pruning costs the demo's models: ``python -m benchmarks.pruning_demo``.

Everything is chosen on the training split (images without labels), and counted once on the 540 test images. Where
Torch-Pruning is installed (``pip install torch-pruning``), it prunes the same models to the same multiply-accumulates:
heads and hidden units as in its example for timm's ViT, by Taylor's criterion on labelled training images.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import vitedge
import vitedge.errors
from benchmarks.export_cost import provenance
from benchmarks.train_demo import prepare_all, split_digits
from vitedge.demo.assets import MODELS, DemoModel
from vitedge.images.preprocess import normalize
from vitedge.models.reference import Reference
from vitedge.parity.metrics import compare
from vitedge.pruning.recipe import PruningRecipe

RESULTS = Path(__file__).parent / "results" / "pruning_demo.json"
IMAGES = 1200
"""Training images that units are ranked and layers are refitted on."""
EPOCHS = 30
RECIPES: Mapping[str, Mapping[str, Any]] = {
    **{f"mlp 0.85, {name}": {"mlp": 0.85, "criterion": name} for name in ("activation", "taylor", "magnitude")},
    "heads 0.5 mlp 0.75": {"heads": 0.5, "mlp": 0.75},
    "heads 0.5 mlp 0.75, no refit": {"heads": 0.5, "mlp": 0.75, "repair": False},
    "2:4, sparsegpt": {"sparsity": "2:4"},
    "2:4, magnitude": {"sparsity": "2:4", "selection": "magnitude"},
    **{f"macs 0.75, {name}": {"macs": 0.75, "criterion": name} for name in ("activation", "taylor", "magnitude")},
    **{f"macs 0.6, {name}": {"macs": 0.6, "criterion": name} for name in ("activation", "taylor", "magnitude")},
    "macs 0.6, recovered": {"macs": 0.6, "epochs": EPOCHS},
    "merge 1": {"merge": 1},
}


def logits(reference: Reference, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the logits of digits ``(images, 8, 8)``."""
    return reference.outputs(prepare_all(grey, reference.spec), features=False)["logits"]


def rows(model: DemoModel, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields a row for each recipe, and for Torch-Pruning."""
    train, test, train_labels, labels = split_digits()
    images = folder / "train.npz"
    np.savez(images, images=np.repeat(train[..., None], 3, axis=-1))
    dense = vitedge.load(model.path, overrides=model.overrides)
    expected = logits(dense, test)
    right = int((expected.argmax(1) == labels).sum())
    yield {"model": model.name, "recipe": "dense", "macs": 1.0, "right": right}
    for name, entries in RECIPES.items():
        learned = {"recover": str(images)} if "epochs" in entries else {}
        recipe = PruningRecipe(
            **entries, **learned, images=str(images), image_count=IMAGES, overrides=dict(model.overrides)
        )
        start = time.perf_counter()
        try:
            done = vitedge.prune(model.path, folder / "pruned.safetensors", recipe, force=True)
        except vitedge.errors.UserError as error:
            yield {"model": model.name, "recipe": name, "failed": str(error)}
            continue
        seconds = round(time.perf_counter() - start, 1)
        found = logits(vitedge.load(done.path), test)
        macs = done.record.gmacs[1] / done.record.gmacs[0]
        yield {"model": model.name, "recipe": name, **figures(expected, found, labels, macs), "seconds": seconds}
    for fraction in (0.75, 0.6):
        yield peer(model, dense, fraction, (train, train_labels), (test, labels))


def figures(
    expected: NDArray[np.float32], found: NDArray[np.float32], labels: NDArray[np.int64], macs: float
) -> dict[str, Any]:
    """Returns what a pruned model got right, beside the dense one."""
    right, kept = (int((scores.argmax(1) == labels).sum()) for scores in (expected, found))
    sqnr = compare({"logits": expected}, {"logits": found})[0].centred_sqnr_db
    return {"macs": round(macs, 3), "right": kept, "lost": right - kept, "sqnr_db": round(sqnr, 2)}


def peer(
    model: DemoModel,
    dense: Reference,
    fraction: float,
    training: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> dict[str, Any]:
    """Returns the row of Torch-Pruning: the smallest of a series of ratios that leaves the fraction of the MACs."""
    name = f"Torch-Pruning, macs {fraction:g}"
    start = time.perf_counter()
    try:
        import torch_pruning  # noqa: PLC0415 - a peer, which need not be there

        images = torch.from_numpy(normalize(prepare_all(training[0], dense.spec), dense.spec.preprocessing))
        for ratio in np.arange(0.05, 0.95, 0.025):
            module, macs = pruned_by_peer(torch_pruning, dense, float(ratio), images, torch.from_numpy(training[1]))
            if macs <= fraction:
                break
        found = logits(Reference(module, dense.spec), test[0])
    except Exception as error:  # every failure of the peer is a result of this table
        return {"model": model.name, "recipe": name, "failed": f"{type(error).__name__}: {str(error)[:200]}"}
    seconds = round(time.perf_counter() - start, 1)
    rows_of = figures(logits(dense, test[0]), found, test[1], macs)
    return {"model": model.name, "recipe": name, **rows_of, "seconds": seconds}


def pruned_by_peer(
    peer_package: Any, dense: Reference, ratio: float, images: Tensor, labels: Tensor
) -> tuple[nn.Module, float]:
    """Returns what Torch-Pruning leaves of a model, and its share of the MACs."""
    module = copy.deepcopy(dense.module).requires_grad_()
    attentions = {part: part for part in module.modules() if hasattr(part, "qkv") and hasattr(part, "num_heads")}
    kept = [getattr(module, "head", None), *(part.proj for part in attentions)]
    kept += [part.fc2 for part in module.modules() if hasattr(part, "fc1") and hasattr(part, "fc2")]
    pruner = peer_package.pruner.BasePruner(
        module,
        images[:1],
        importance=peer_package.importance.GroupTaylorImportance(),
        pruning_ratio=ratio,
        global_pruning=True,
        isomorphic=True,
        ignored_layers=[part for part in kept if part is not None],
        num_heads={part.qkv: part.num_heads for part in attentions},
        prune_num_heads=True,
        head_pruning_ratio=ratio,
        round_to=None,
    )
    before, _ = peer_package.utils.count_ops_and_params(module, images[:1])
    for start in range(0, 512, 64):
        nn.functional.cross_entropy(module(images[start : start + 64]), labels[start : start + 64]).backward()
    pruner.step()
    for part in attentions:
        part.num_heads = pruner.num_heads[part.qkv]
        part.attn_dim = part.qkv.out_features // 3
        part.head_dim = part.attn_dim // part.num_heads
    after, _ = peer_package.utils.count_ops_and_params(module, images[:1])
    return module.eval(), float(after / before)


def main() -> None:
    """Writes the result."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            for one in rows(model, Path(folder)):
                print(json.dumps(one), flush=True)
                found.append(one)
    peers = {name: version(name) for name in ("torch-pruning",) if find_spec(name.replace("-", "_"))}
    counts = {"test_images": 540, "calibration_images": IMAGES}
    content = {"provenance": provenance(), "peers": peers, **counts, "rows": found}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

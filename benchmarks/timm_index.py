# SPDX-License-Identifier: Apache-2.0
"""Writes the index of timm's models by the names and shapes of their weights.

``python -m benchmarks.timm_index [PATTERN ...]`` from the root of the repository. Models are built on the meta device,
so that neither memory nor time goes into weights; entries of other patterns stay, if timm's version is the same.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import gzip
import hashlib
import json
import warnings
from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.models._input import _get_global_pool  # what timm itself writes into a config.json
from torch import nn

from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.table import FAMILIES
from vitedge.checkpoints.families.timm.signature import HEAD, INDEX, signature
from vitedge.checkpoints.identify import identify
from vitedge.errors import UserError
from vitedge.models.reference import check_fit, skeleton

_CHANGING = {
    *("img_size", "grid_size", "num_patches", "num_classes", "feat_shape", "feat_size", "input_resolution"),
    *("training", "fused_attn", "drop_prob", "p", "inplace", "grad_checkpointing", "scale_by_keep", "strict_img_size"),
    *("dynamic_img_pad", "output_fmt", "num_features", "head_hidden_size", "pretrained_cfg", "pruned_dim"),
    *("always_partition", "dynamic_mask", "target_input_size", "dynamic_img_size", "device", "dtype", "in_chans"),
    *("weight_init_mode", "init_values", "head_init_scale", "fix_init", "same_pad"),
}
"""Attributes that follow from the image size, or have no effect on what a module computes in evaluation."""


_ALIKE = {"StdConv2dSame": "SameConv2d"}
"""Kinds of module of timm to those of vitedge that compute the same with weights that are standardized once."""


def function_of(module: nn.Module) -> str:
    """Returns a digest of the kinds and settings of all modules, other than image size and classes."""
    lines = [f"{name} {_kind(part)} {list(_settings(part))}" for name, part in _parts(module)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    idle = (nn.Identity, nn.Dropout)
    for name, part in module.named_modules():
        is_classifier = isinstance(part, nn.Linear) and HEAD.fullmatch(f"{name}.weight")
        if not isinstance(part, idle) and type(part).__name__ not in ("DropPath", "PatchDropout") and not is_classifier:
            yield name, part


def _kind(part: nn.Module) -> str:
    name = type(part).__name__
    return _ALIKE.get(name, name)


def _settings(part: nn.Module) -> Iterator[tuple[str, str]]:
    for name, value in sorted(vars(part).items()):
        if name == "eps" and type(part).__name__ in _ALIKE:
            continue
        if name not in _CHANGING and not name.startswith("_"):
            text = _text(value)
            if text is not None:
                yield name, text


def _text(value: Any) -> str | None:
    if isinstance(value, functools.partial):
        return f"{_text(value.func)} {sorted(value.keywords.items())}"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return repr([_text(entry) for entry in value])
    return None


def built(name: str) -> nn.Module:
    """Builds a model on the meta device; in memory, if timm cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                module: nn.Module = timm.create_model(name)
        except (RuntimeError, NotImplementedError):
            module = timm.create_model(name)
    return module.eval()


def read_by_family(module: nn.Module, config: dict[str, Any]) -> bool:
    """Returns whether a family of vitedge builds the same modules from the weights alone."""
    state = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
    hints = Hints({"input_size": config["input_size"]})
    try:
        family, naming, converted = identify(state, hints, FAMILIES)
        rebuilt = skeleton(family.infer(converted.state, naming.name, hints))
        check_fit(rebuilt, converted.state, "")
    except UserError:
        return False
    return function_of(rebuilt) == function_of(module)


def entry(name: str) -> dict[str, Any]:
    """Returns the entry of a model."""
    module = built(name)
    config: dict[str, Any] = dict(module.pretrained_cfg)  # type: ignore[arg-type]
    classifier = config.get("classifier") or ()
    first = config.get("first_conv") or ()
    found = signature({key: tuple(tensor.shape) for key, tensor in module.state_dict().items()})
    return {
        "name": name,
        "signature": [found.whole, found.body, found.sized],
        "function": function_of(module),
        "by_family": read_by_family(module, config),
        "input_size": list(config["input_size"]),
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": config["interpolation"],
        "crop": config["crop_pct"],
        "pool": _get_global_pool(module) or "",
        "width": int(module.num_features),  # type: ignore[arg-type]
        "first": [first] if isinstance(first, str) else list(first),
        "classifier": [classifier] if isinstance(classifier, str) else list(classifier),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patterns", nargs="*", default=["*"], help="of names; all if none is given")
    arguments = parser.parse_args()
    known: dict[str, Any] = {}
    if INDEX.exists():
        content = json.loads(gzip.decompress(INDEX.read_bytes()))
        known = {old["name"]: old for old in content["models"]} if content["timm"] == timm.__version__ else {}
    for name in timm.list_models():
        if any(fnmatch.fnmatch(name, pattern) for pattern in arguments.patterns):
            try:
                known[name] = entry(name)
            except Exception as error:  # a model that this timm cannot build is no loss; it is named
                print(f"{name} is left out: {type(error).__name__}: {error}", flush=True)
    content = {"timm": timm.__version__, "models": [known[name] for name in sorted(known)]}
    INDEX.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0))
    print(f"{len(known)} models, {INDEX.stat().st_size} bytes")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""ViTs that somebody built around PyTorch's ``nn.TransformerEncoder``, in timm's names.

The layers have PyTorch's names; what is around them is found by its shape, because everybody calls it otherwise. What
no weight tells (``norm_first``, the activation, the pooling) is assumed, and shown as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitedge.checkpoints.families.family import Converted, Hints, State
from vitedge.errors import UnknownArchitecture
from vitedge.records import Origin
from vitedge.sentences import some

NAME = "pytorch"
"""`Naming.name` of these weights."""
SIGNATURE = tuple(
    rf"(?:\w+\.)*layers\.\d+\.{part}\.?{kind}"
    for part, kind in (
        ("self_attn", "in_proj_weight"),
        ("self_attn.out_proj", "weight"),
        ("linear1", "weight"),
        ("linear2", "weight"),
        ("norm1", "weight"),
        ("norm2", "weight"),
    )
)
_UNTOLD = {
    "norm_first": ("norm_first", "--set norm_first=true or false"),
    "activation": ("hidden_act", "--set activation=gelu or relu"),
    "pool": ("global_pool", "--set pool=class or mean"),
}
"""Facts that no weight tells, to the key of a configuration that does, and what the user types."""

_LAYER = re.compile(r"((?:\w+\.)*)layers\.(\d+)\.(.+)")
_PARTS = {
    "self_attn.in_proj_weight": "attn.qkv.weight",
    "self_attn.in_proj_bias": "attn.qkv.bias",
    **{
        f"{old}.{kind}": f"{new}.{kind}"
        for old, new in (
            *(("self_attn.out_proj", "attn.proj"), ("linear1", "mlp.fc1"), ("linear2", "mlp.fc2")),
            *(("norm1", "norm1"), ("norm2", "norm2")),
        )
        for kind in ("weight", "bias")
    },
}
_LAST_NORM = re.compile(
    r"(?:.*[._])?(?:norm|ln|ln_f|layer_?norm|(?:final|post|last|out)_?(?:norm|ln)|\w*(?:head|classifier|fc)\.0)"
)
_FIRST_NORM = re.compile(
    r"(?:.*[._])?(?:pre|in|input|emb|embed|embedding|patch)\w*[._](?:norm|ln)|.*(?:norm|ln)_?(?:pre|in)"
)
_TOKEN = re.compile(r"(?:.*[._])?(?:cls|class)\w*")


def convert(state: State, _hints: Hints) -> Converted:
    """Converts the layers by their names, and what is around them by its shape.

    Raises:
        UnknownArchitecture: it is no ViT with one patch convolution, a learned position embedding, at most a class
            token, a last norm, and one linear head.
    """
    found = {name: match for name in state if (match := _LAYER.fullmatch(name)) and match[3] in _PARTS}
    roots = {match[1] for match in found.values()}
    if len(roots) > 1:
        raise _refusal(f"it has {len(roots)} of them, {some(sorted(roots))}")
    root = roots.pop()
    layers = {f"blocks.{match[2]}.{_PARTS[match[3]]}": state[name] for name, match in found.items()}
    depth = 1 + max(int(match[2]) for match in found.values())
    missing = [f"blocks.{index}.{part}" for index in range(depth) for part in _PARTS.values()]
    missing = [name for name in missing if name not in layers]
    if missing:
        raise _refusal(f"its layers lack {some(missing)}")
    width = len(layers["blocks.0.norm1.weight"])
    around = _Around({name: tensor for name, tensor in state.items() if name not in found}, root, width)
    return Converted({**layers, **around.placed()})


@dataclass
class _Around:
    """The weights around the encoder, which are taken one by one."""

    left: State
    root: str
    width: int
    taken: State = field(default_factory=dict)

    def placed(self) -> State:
        """Returns all of them in timm's names."""
        self._patches()
        self._positions()
        self._token()
        self._norm()
        self._head()
        if self.left:
            raise _refusal(f"it has weights whose part in it is not known, {some(self.left)}")
        return self.taken

    def _layer(self, old: str, new: str) -> None:
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in self.left:
                self.taken[f"{new}.{kind}"] = self.left.pop(f"{old}.{kind}")

    def _patches(self) -> None:
        layers = [name.removesuffix(".weight") for name, tensor in self.left.items() if tensor.ndim == 4]
        if len(layers) != 1 or len(self.left.get(f"{layers[0]}.weight", ())) != self.width:
            told = f"the convolutions {some(layers)}" if layers else "no convolution"
            raise _refusal(f"it has {told} in place of one that makes {self.width} channels of each patch")
        self._layer(layers[0], "patch_embed.proj")
        self.taken.setdefault("patch_embed.proj.bias", torch.zeros(self.width))

    def _free(self) -> dict[str, Tensor]:
        """Returns parameters that are no layer's, and tables of positions, whose rows are of the encoder's width."""
        return {
            name: tensor
            for name, tensor in self.left.items()
            if tensor.ndim and tensor.shape[-1] == self.width and tensor.is_floating_point() and self._is_free(name)
        }

    def _is_free(self, name: str) -> bool:
        stem, _, last = name.rpartition(".")
        return last not in ("weight", "bias") or (f"{stem}.bias" not in self.left and "pos" in stem)

    def _positions(self) -> None:
        tables = [name for name, tensor in self._free().items() if tensor.numel() > self.width]
        if len(tables) != 1:
            raise _refusal(f"it has {'no position embedding' if not tables else f'the tables {some(tables)}'}")
        self.taken["pos_embed"] = self.left.pop(tables[0]).reshape(1, -1, self.width)

    def _token(self) -> None:
        tokens = [name for name, tensor in self._free().items() if tensor.numel() == self.width]
        if len(tokens) > 1 or any(not _TOKEN.fullmatch(name) for name in tokens):
            raise _refusal(f"it has the tokens {some(tokens)}, which are more than a class token")
        if tokens:
            self.taken["cls_token"] = self.left.pop(tokens[0]).reshape(1, 1, self.width)

    def _norm(self) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.left.items()}
        norms = [name.removesuffix(".weight") for name, shape in shapes.items() if shape == (self.width,)]
        norms = [name for name in norms if f"{name}.bias" in self.left]
        if not norms:
            return
        own = norms[0] == f"{self.root}norm"
        if len(norms) > 1 or not (own or (_LAST_NORM.fullmatch(norms[0]) and not _FIRST_NORM.fullmatch(norms[0]))):
            raise _refusal(f"the place of {some(norms)} in it is not known")
        after = re.search(r"(head|classifier|fc)\.0$", norms[0]) is not None and "cls_token" not in self.taken
        self._layer(norms[0], "fc_norm" if after else "norm")

    def _head(self) -> None:
        layers = [name.removesuffix(".weight") for name, tensor in self.left.items() if tensor.ndim == 2]
        if len(layers) > 1 or any(self.left[f"{layer}.weight"].shape[1] != self.width for layer in layers):
            raise _refusal(f"it has the linear layers {some(layers)} where a head of one layer is known")
        for layer in layers:
            self._layer(layer, "head")
            self.taken.setdefault("head.bias", torch.zeros(len(self.taken["head.weight"])))


def find_norm_first(state: Iterable[str], config: Mapping[str, Any]) -> tuple[bool, Origin]:
    """Returns whether norms come before attention and MLP: a network with a norm at its end is built so."""
    told = config.get("norm_first")
    if isinstance(told, bool):
        return told, Origin.CONFIG
    return bool({"norm.weight", "fc_norm.weight"} & set(state)), Origin.ASSUMED


def notes_of(hints: Hints) -> tuple[str, ...]:
    """Returns the note on what is assumed; none where the user or a configuration says it all."""
    untold = [
        words for name, (key, words) in _UNTOLD.items() if name not in hints.overrides and key not in hints.config
    ]
    if not untold:
        return ()
    return (
        "No weight of nn.TransformerEncoder tells where its norms are, its activation, or what the head reads: "
        f"assumed here ({', '.join(untold)}).",
    )


def _refusal(what: str) -> UnknownArchitecture:
    return UnknownArchitecture(
        f"It is a module around PyTorch's nn.TransformerEncoder, and {what}; vitedge reads those with one patch "
        "convolution, a learned position embedding, at most a class token, a norm at the end, and one Linear as head."
    )

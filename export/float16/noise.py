# SPDX-License-Identifier: Apache-2.0
"""Modules that have to stay in float32 because rounding to float16, summed over the model, drowns the outputs.

Nothing overflows in such a model: the part of its outputs that depends on the image is small beside the part that does
not, and the rounding noise of the latter covers it. The noise is predicted to first order from one forward pass and a
few backward passes: rounding a value y by e moves the outputs by J e, and with random signs v, E[(J^T v)^2] is the
squared norm of J's columns (Hutchinson's estimator), so that the roundings, taken as independent, add up to
sum_i (J^T v)_i^2 e_i^2.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from vitedge.program.attention import attention_scale
from vitedge.program.batch_norm import folds_into
from vitedge.program.execution import arguments
from vitedge.program.float16 import FLOAT16_MAX
from vitedge.program.modules import execution_order, innermost_module
from vitedge.program.program import Program
from vitedge.runtimes.feeding import batches

MARGIN_DB = 3.0
"""Margin in dB of the prediction above the tolerance: it is of first order, and from few images."""
IMAGES = 4
"""Images that are enough for the noise."""
_PROBES = 2
"""Backward passes for every batch and output."""
_VANISHES = frozenset(("dropout", "dropout_", "alias", "detach", "detach_", "clone", "contiguous", "lift_fresh_copy"))
"""Operators that no lowering writes."""
_PASSES_ON = _VANISHES | {
    "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "expand_as", "slice", "select", "narrow",
    "cat", "stack", "getitem", "unsqueeze", "unsqueeze_", "squeeze", "squeeze_", "flatten", "unflatten", "split",
    "split_with_sizes", "chunk", "unbind", "unfold", "roll", "pad", "constant_pad_nd", "to", "_to_copy", "type_as",
    "index", "index_select", "movedim", "swapaxes", "repeat", "relu", "relu_", "max_pool2d", "im2col", "pixel_shuffle",
}  # fmt: skip
"""Operators whose results are values that were rounded before: rounding them again changes nothing."""
_ROUNDINGS = {"linear": 2.0, "gelu": 2.0, "silu": 2.0, "silu_": 2.0}
"""Roundings in operators that are written as several."""
_PREAMBLE = frozenset(("to", "_to_copy", "sub", "add", "mul", "div", "index", "flip", "permute"))
"""Operators that stay in float32 between the image and the first operator with weights."""
_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_BATCH_NORM = torch.ops.aten.batch_norm.default

_Reason = frozenset[str]
"""Modules that all have to be in float32 for a value not to be rounded."""


@dataclass(frozen=True)
class Noise:
    """Predicted rounding noise of one output."""

    signal: float
    """Power of the part that depends on the image, of all elements of one image."""
    parts: Mapping[_Reason, float]
    """Power of the noise that vanishes once all of these modules are in float32."""

    def left(self, float32_modules: Iterable[str]) -> float:
        """Power of the noise that is left with these modules in float32."""
        kept = set(float32_modules)
        return sum(power for modules, power in self.parts.items() if not modules <= kept)

    def sqnr_db(self, float32_modules: Iterable[str] = ()) -> float:
        """Returns the predicted signal-to-noise ratio with these modules in float32."""
        noise = self.left(float32_modules)
        return 10 * math.log10(self.signal / noise) if noise and self.signal else math.inf


def find_noisy(
    program: Program,
    images: torch.Tensor | np.ndarray[Any, Any],
    reference: Sequence[np.ndarray[Any, Any]],
    tolerance_db: float,
    margin_db: float = MARGIN_DB,
    already: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Finds a small set of modules to keep in float32, with which every output is predicted to be within tolerance.

    Args:
        program: what `vitedge.program.capture.capture` returned.
        images: ``(images, channels, height, width)``, as the program takes them; `IMAGES` are enough.
        reference: the program's outputs, ``(images, …)``, over all images for which the tolerance has to hold.
        tolerance_db: centred signal-to-noise ratio that the outputs have to reach.
        margin_db: how far above it the prediction has to be.
        already: modules that stay in float32 anyway; they are not returned.
    """
    return choose_noisy(program, predict_noise(program, images, reference), tolerance_db, margin_db, already)


def choose_noisy(
    program: Program,
    predicted: Iterable[Noise],
    tolerance_db: float,
    margin_db: float = MARGIN_DB,
    already: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Does what `find_noisy` does, with noise that was predicted before: by `predict_noise`, for each output."""
    order = execution_order(program)
    partners = _folded(program)
    own = {partners.get(module, module) for module in already}
    chosen = set(own)
    for noise in predicted:
        # The reference says nothing there, and parity will say that.
        if noise.signal > 0:
            _choose(noise, noise.signal / 10 ** ((tolerance_db + margin_db) / 10), chosen)
    chosen -= own
    return tuple(module for module in order if partners.get(module, module) in chosen)


def predict_noise(
    program: Program, images: torch.Tensor | np.ndarray[Any, Any], reference: Sequence[np.ndarray[Any, Any]]
) -> tuple[Noise, ...]:
    """Predicts the noise of each output if every weight and value is float16; arguments as of `find_noisy`."""
    samples = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    probe = _Probe(program)
    runs = 0
    for batch in batches(samples, program.inputs[0].shape[0], 1):
        probe.measure(batch)
        runs += len(batch)
    return tuple(
        Noise(
            # A few images tell the noise within a decibel, but not the signal.
            signal=float(values.astype(np.float64).var(axis=0).sum()),
            parts={modules: total / runs / _PROBES for modules, total in power.items()},
        )
        for values, power in zip(reference, probe.power, strict=True)
    )


def _choose(noise: Noise, allowed: float, chosen: set[str]) -> None:
    """Adds modules until the noise is allowed, the one with the largest share of the remaining noise first."""
    added: list[str] = []
    while noise.left(chosen) > allowed:
        share: dict[str, float] = defaultdict(float)
        for modules, power in noise.parts.items():
            for module in modules - chosen:
                share[module] += power / len(modules - chosen)
        added.append(max(share, key=lambda module: share[module]))
        chosen.add(added[-1])
    # A value counts only when all that read it are in: what was taken on the way there may have become needless.
    for module in added:
        if noise.left(chosen - {module}) <= allowed:
            chosen.remove(module)


def _folded(program: Program) -> Mapping[str, str]:
    """Returns the module of every convolution that takes in a batch normalization, to the module of that."""
    return {
        innermost_module(node): innermost_module(next(iter(node.users)))
        for node in program.exported.graph.nodes
        if node.op == "call_function" and _is_folded(node)
    }


def _is_folded(node: Node) -> bool:
    return any(folds_into(user) is node for user in node.users)


def _name(node: Node) -> str:
    name = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(name, "__name__", name))


def _reasons(nodes: Sequence[Node], folded: Mapping[str, str], preamble: set[Node]) -> Mapping[Node, _Reason]:
    """Returns for every node its module and those of the consumers of its value, also through data movement."""
    reasons: dict[Node, _Reason] = {}
    for node in reversed(nodes):
        modules: set[str] = set()
        if node.op == "call_function" and node not in preamble and _name(node) not in _VANISHES:
            modules.add(folded.get(innermost_module(node), innermost_module(node)))
        for user in node.users:
            if user.op == "call_function":
                passed = reasons[user] if _name(user) in _PASSES_ON else frozenset()
                reader = innermost_module(user)
                modules |= passed if _name(user) in _VANISHES else passed | {folded.get(reader, reader)}
        reasons[node] = frozenset(modules)
    return reasons


def _preamble(nodes: Sequence[Node]) -> set[Node]:
    """Returns the image and the nodes that stay in float32 between it and the first operator with weights."""
    found: set[Node] = set()
    for node in nodes:
        data = [source for source in node.all_input_nodes if source.op != "placeholder" or source in found]
        image = node.op == "placeholder" and "val" in node.meta and node.name.startswith("image")
        if image or (_name(node) in _PREAMBLE and data and found.issuperset(data)):
            found.add(node)
    return found


class _Probe(Interpreter):
    """Runs a program forwards, and backwards from random signs; adds up the noise power of the roundings per output."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.exported.graph_module)
        nodes = list(program.exported.graph.nodes)
        self.power: tuple[dict[_Reason, float], ...] = tuple(defaultdict(float) for _ in program.outputs)
        self._program = program
        self._preamble = _preamble(nodes)
        self._reasons = _reasons(nodes, _folded(program), self._preamble)
        self._generator = torch.Generator().manual_seed(0)
        self._output = 0

    def measure(self, batch: torch.Tensor) -> None:
        """Runs one batch."""
        with torch.enable_grad():
            outputs = self.run(*arguments(self._program, batch))
            for index, output in enumerate(outputs):
                self._output = index
                for probe in range(_PROBES):
                    signs = torch.randint(0, 2, output.shape, generator=self._generator).to(output.dtype) * 2 - 1
                    last = index + 1 == len(outputs) and probe + 1 == _PROBES
                    output.backward(signs, retain_graph=not last)

    def run_node(self, n: Node) -> Any:
        if n.op == "output":
            return super().run_node(n)
        if n.target == _ATTENTION:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            result = self._attend(n, *args, **kwargs)
        else:
            result = super().run_node(n)
        if not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return result
        if n.op == "placeholder" and n not in self._preamble:
            return self._weight(n, result)
        if not result.requires_grad:
            # An image that has just become numbers, or a table. The copy may be written to.
            result = result.detach().requires_grad_().clone()
        inside = n in self._preamble and self._preamble.issuperset(n.users)
        passes = n not in self._preamble and (_name(n) in _PASSES_ON or _is_folded(n))
        return result if inside or passes else self._rounded(n, result)

    def _weight(self, node: Node, tensor: torch.Tensor) -> torch.Tensor:
        """Returns a weight that shares the reference's memory; its gradient is recorded where float16 rounds it."""
        if self._preamble.issuperset(node.users) or all(_is_statistic(node, user) for user in node.users):
            return tensor.detach()
        leaf = tensor.detach().requires_grad_()

        def add(weight: torch.Tensor) -> None:
            if weight.grad is not None:
                self._add(node, weight.grad, _rounding(weight.detach()), 1.0)
                weight.grad = None

        leaf.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call]
        return leaf

    def _rounded(self, node: Node, value: torch.Tensor) -> torch.Tensor:
        """Records the gradient of a value that float16 rounds."""
        # Kept in half the bytes: an operator that works in place may overwrite the value itself.
        error, times = _rounding(value.detach()).bfloat16(), _ROUNDINGS.get(_name(node), 1.0)
        value.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: self._add(node, gradient, error, times)
        )
        return value

    def _add(self, node: Node, gradient: torch.Tensor, error: torch.Tensor, times: float) -> None:
        power = times * float((gradient * error).square().sum())
        self.power[self._output][self._reasons[node]] += power

    def _attend(
        self, node: Node, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any
    ) -> torch.Tensor:
        """Computes attention in the steps in which it is lowered, each of which is rounded."""
        mask = rest[0] if rest else options.get("attn_mask")
        scale = attention_scale(query.shape[-1], options.get("scale"))
        scores = self._rounded(node, (query * scale) @ key.transpose(-2, -1))
        if mask is not None:
            scores = self._rounded(node, scores + mask)
        return self._rounded(node, scores.softmax(-1)) @ value


def _is_statistic(node: Node, user: Node) -> bool:
    """Returns whether a weight is a bias or statistic of a batch normalization, which folding leaves as one shift."""
    return user.target == _BATCH_NORM and node is not user.args[2]


def _rounding(value: torch.Tensor) -> torch.Tensor:
    """Returns the error of rounding to float16; an overflow counts as no error here."""
    return value.clamp(-FLOAT16_MAX, FLOAT16_MAX).half().float() - value.clamp(-FLOAT16_MAX, FLOAT16_MAX)

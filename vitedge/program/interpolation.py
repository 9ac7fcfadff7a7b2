# SPDX-License-Identifier: Apache-2.0
"""Bilinear interpolation between fixed sizes as matrix products.

It is linear and separable: a map ``X`` becomes ``H X Wᵀ``, where row ``i`` of ``H`` holds what every row of the map
gives to row ``i`` of the result. MobileViT's blocks bring their map to a multiple of the patch in this way. As products
with constants it is the same arithmetic on every target; operators that resize know different sampling rules on each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node

from vitedge.program.editor import symbolic
from vitedge.program.modules import origin_metadata

_ATEN = torch.ops.aten


def write_as_products(exported: ExportedProgram) -> None:
    """Replaces every bilinear interpolation of a program to a given size by two products with constant matrices.

    The constants are added to the program, equal ones once. Batch and channels may be dynamic.

    Args:
        exported: in float32 and not decomposed; it is altered.
    """
    nodes = [node for node in exported.graph.nodes if node.target is _ATEN.upsample_bilinear2d.vec and node.args[1]]
    for node in nodes:
        _replace(exported, node)
    if nodes:
        exported.graph_module.recompile()
        exported.validate()  # type: ignore[no-untyped-call]


def interpolation_matrix(old: int, new: int, *, align_corners: bool) -> Tensor:
    """Returns the weights of interpolation along an axis, ``(new, old)``, float32.

    PyTorch itself interpolates the identity, so that the coefficients are its own.
    """
    identity = torch.eye(old)[None, None]
    return torch.nn.functional.interpolate(identity, (new, old), mode="bilinear", align_corners=align_corners)[0, 0]


def _replace(exported: ExportedProgram, node: Node) -> None:
    arguments: Any = node.args
    image, (height, width), align_corners = arguments[:3]
    old_height, old_width = (int(edge) for edge in image.meta["val"].shape[2:])
    kind = "bilinear_aligned" if align_corners else "bilinear"
    rows = interpolation_matrix(old_height, height, align_corners=align_corners)
    columns = interpolation_matrix(old_width, width, align_corners=align_corners).T.contiguous()
    mode = node.meta["val"].fake_mode
    left = _constant(exported, f"{kind}_{old_height}_to_{height}", rows, mode)
    right = _constant(exported, f"{kind}_{old_width}_to_{width}_transposed", columns, mode)
    with exported.graph.inserting_before(node):
        # Width first, as PyTorch's own kernel does it.
        wide = _product(exported, node, image, right)
        result = _product(exported, node, left, wide)
    node.replace_all_uses_with(result)
    exported.graph_signature.replace_all_uses(node.name, result.name)
    exported.graph.erase_node(node)


def _product(exported: ExportedProgram, origin: Node, left: Node, right: Node) -> Node:
    product: Node = exported.graph.call_function(_ATEN.matmul.default, (left, right))
    product.meta = origin_metadata(origin)
    with symbolic(origin.meta["val"].fake_mode):
        product.meta["val"] = torch.matmul(left.meta["val"], right.meta["val"])
    return product


def _constant(exported: ExportedProgram, name: str, value: Tensor, mode: Any) -> Node:
    """Returns the constant of that name, which stands for its value; added where it is not there yet."""
    specs = exported.graph_signature.input_specs
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    known: dict[str | None, Node] = {spec.target: node for node, spec in zip(placeholders, specs, strict=True)}
    if name in known:
        return known[name]
    # The signature has constants before what the user passes.
    position = next(index for index, spec in enumerate(specs) if spec.kind is InputKind.USER_INPUT)
    with exported.graph.inserting_before(placeholders[position]):
        added: Node = exported.graph.placeholder(f"c_{name}")
    added.meta["val"] = mode.from_tensor(value, static_shapes=True)
    specs.insert(position, InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(added.name), name))
    exported.constants[name] = value
    return added

# SPDX-License-Identifier: Apache-2.0
"""Weights that are no plain tensors under their own names: wrapped, masked, quantized, flat shards, adapters."""

from __future__ import annotations

import re

import torch

from vitedge.checkpoints.families.family import State
from vitedge.errors import WeightsMismatch

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")
"""Parts of names that torch.compile, FSDP, activation checkpointing, Fabric and DataParallel put in between."""

_FORMS = (
    (
        r"(.*\.)?(flat_param|_flat_param)(_\d+)?",
        "is a flat shard of FSDP; consolidate it where it was trained: save the "
        "state_dict under StateDictType.FULL_STATE_DICT",
    ),
    (
        r".*\.(lora_(A|B|embedding_[AB]|magnitude_vector)|hada_w\d_[ab]|ia3_l)(\..*)?",
        "is an adapter of PEFT (LoRA), "
        "not the model; merge it first with model.merge_and_unload(), and save that state_dict",
    ),
    (
        r".*\.(absmax|quant_map|quant_state(\..*)?|nested_absmax|SCB|weight_format)",
        "is quantized by bitsandbytes; pass the weights in float that it was loaded from",
    ),
    (
        r".*\.(_packed_params(\..*)?|zero_point|qweight|qzeros)",
        "is quantized; pass the weights in float that it was made from, and quantize with vitedge quantize",
    ),
)
"""Regular expressions of names to what such a file is, and the way out."""


def refuse_forms(state: State, where: str) -> None:
    """Refuses weights that are quantized, sharded flat, or an adapter.

    Raises:
        WeightsMismatch: with the way out.
    """
    for pattern, what in _FORMS:
        name = next((name for name in state if re.fullmatch(pattern, name)), None)
        if name is not None:
            raise WeightsMismatch(f"{where} {what} ({name} shows it).")


def unwrapped(state: State) -> State:
    """Takes the parts of wrappers out of all names; one whose removal would make two weights one is left in."""
    for part in WRAPPERS:
        bare = {".".join(word for word in name.split(".") if word != part): weight for name, weight in state.items()}
        if len(bare) == len(state):
            state = bare
    return state


def masked(state: State) -> tuple[State, tuple[str, ...]]:
    """Multiplies the weights of ``torch.nn.utils.prune`` with their masks, as its forward does, and says so.

    Raises:
        WeightsMismatch: a weight without its mask.
    """
    pruned = [name.removesuffix("_orig") for name in state if name.endswith("_orig")]
    if not pruned:
        return state, ()
    joined = {name: weight for name, weight in state.items() if not name.endswith(("_orig", "_mask"))}
    for name in pruned:
        if name in state or f"{name}_mask" not in state:
            raise WeightsMismatch(
                f"{name}_orig is a weight that was pruned, and {name}_mask is not in the file; call "
                "torch.nn.utils.prune.remove on its module before saving the state_dict."
            )
        weight = state[f"{name}_orig"]
        joined[name] = weight * state[f"{name}_mask"].to(weight.dtype)
    # Names with that ending that are no masks of these weights stay, to be refused by name if they have no place.
    left = {name: weight for name, weight in state.items() if name.endswith("_mask") and name[:-5] not in pruned}
    return joined | left, (f"{len(pruned)} weights are pruned: each is stored with a mask, and the product is used.",)


def same_shapes(one: State, other: State) -> bool:
    """Returns whether two sets hold floating-point weights of the same shapes, whatever their names."""
    first, second = (
        sorted(tuple(weight.shape) for weight in state.values() if torch.is_floating_point(weight) and weight.ndim)
        for state in (one, other)
    )
    return first == second

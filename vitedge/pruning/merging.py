# SPDX-License-Identifier: Apache-2.0
"""Makes the blocks of a draft merge tokens; see `vitedge.models.merging`."""

from __future__ import annotations

from dataclasses import replace

from vitedge.errors import BadRecipe
from vitedge.models.merging import set_merging
from vitedge.pruning.draft import Draft
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.records import Merging


def merge_tokens(draft: Draft, recipe: PruningRecipe) -> Merging:
    """Makes the blocks of a draft merge as many tokens as the recipe says, in place of what they merged before.

    Args:
        draft: its module and the blocks of its spec are altered.
        recipe: says how many tokens merge, in each block or in all of them.

    Raises:
        BadRecipe: the family cannot merge tokens, a block cannot merge that many, or there are as many numbers as the
            model has not blocks. The draft is as it was.
    """
    draft.settle()
    blocks = draft.spec.blocks
    asked = recipe.merge or 0
    schedule = asked if isinstance(asked, tuple) else (asked,) * len(blocks)
    if len(schedule) != len(blocks):
        raise BadRecipe(
            f"--merge has {len(schedule)} numbers, and {draft.spec.variant} has {len(blocks)} blocks: give one number "
            "for all of them, or one for each."
        )
    merged = tuple(replace(block, merge=merge) for block, merge in zip(blocks, schedule, strict=True))
    spec = replace(draft.spec, blocks=merged)
    tokens = set_merging(draft.module, spec)
    draft.spec = spec
    return Merging(schedule, tokens)

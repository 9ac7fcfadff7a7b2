# SPDX-License-Identifier: Apache-2.0
"""How trtexec measures: settings that are the same on every version, for the defaults are not.

Up to 10 a CUDA graph, spinning while waiting, and leaving out copies have to be asked for; from 11 on they are the
defaults, the old options are deprecated, and their opposites have options of their own (NVIDIA/TensorRT,
``samples/common/sampleOptions.cpp``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vitedge.devices.trtexec.program import Trtexec
from vitedge.errors import BadRecipe

_OPTIONS: Mapping[str, tuple[bool, str, str, str]] = {
    "cuda_graph": (True, "--useCudaGraph", "--noCudaGraph", "CUDA graph"),
    "spin_wait": (True, "--useSpinWait", "--noSpinWait", "spin wait"),
    "transfers": (False, "--noDataTransfers", "--includeDataTransfers", "copies to and from the GPU"),
}
"""Field to its default in 11, the option up to 10 that asks for that, the one from 11 on that undoes it, its title."""


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement; the defaults time the kernels alone."""

    cuda_graph: bool = True
    spin_wait: bool = True
    transfers: bool = False
    """Whether inputs are copied to the GPU and outputs back in every inference."""
    warmup_ms: int = 200
    """Milliseconds of warm-up before the samples of every run."""

    def words(self, program: Trtexec) -> tuple[str, ...]:
        """Returns the options that make a version measure so, none of them deprecated there.

        Raises:
            BadRecipe: this version cannot.
        """
        words = [f"--warmUp={self.warmup_ms}"]
        for field, (default, asks, undoes, title) in _OPTIONS.items():
            value = getattr(self, field)
            is_default = program.takes(undoes)
            if is_default == (value == default):
                continue
            word = undoes if is_default else asks
            if not program.takes(word):
                raise BadRecipe(f"{program.title} has no {word}, and so cannot measure {_told(title, value)}.")
            words.append(word)
        return tuple(words)

    def method(self, *, captured: bool = True) -> str:
        """Returns how it was measured, the same text for what can be compared.

        Args:
            captured: False where the engine could not be captured as a CUDA graph, and ran without one.
        """
        graph = self.cuda_graph and captured
        parts = [
            "trtexec",
            "total of copies and kernels" if self.transfers else "time of the kernels",
            _told("CUDA graph", graph),
            _told("spin wait", self.spin_wait),
            _told("copies to and from the GPU", self.transfers),
            f"a process and {self.warmup_ms} ms of warm-up for every turn",
        ]
        return ", ".join(parts)


def _told(title: str, value: bool) -> str:  # noqa: FBT001 - the value of a setting
    return f"{'with' if value else 'without'} {title}"

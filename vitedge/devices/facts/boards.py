# SPDX-License-Identifier: Apache-2.0
"""Names of what devices tell in numbers: JetPack of L4T's release, compute capability of a SoC, processor of its part.

Sources: L4T and JetPack: https://github.com/dusty-nv/jetson-containers and NVIDIA's archive of JetPack releases;
compute capabilities: https://developer.nvidia.com/cuda-gpus; parts: arch/arm64/include/asm/cputype.h of Linux;
instruction sets: arch/arm64/kernel/cpuinfo.c and arch/x86/include/asm/cpufeatures.h of Linux.
"""

from __future__ import annotations

from collections.abc import Mapping

JETPACK: Mapping[str, str] = {
    "32.6.1": "4.6", "32.7.1": "4.6.1", "32.7.2": "4.6.2", "32.7.3": "4.6.3", "32.7.4": "4.6.4", "32.7.5": "4.6.5",
    "32.7.6": "4.6.6", "34.1": "5.0 DP", "35.1": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2",
    "35.5": "5.1.3", "35.6": "5.1.4", "35.6.1": "5.1.5", "35.6.2": "5.1.5", "35.6.3": "5.1.5", "35.6.4": "5.1.6",
    "36.2": "6.0 DP", "36.3": "6.0", "36.4": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1",
    "36.5": "6.2.2", "38.2": "7.0", "38.2.1": "7.0", "38.2.2": "7.0", "38.4": "7.1", "39.0": "7.2 EA",
    "39.1": "7.2", "39.2": "7.2",
}  # fmt: skip
"""Release of L4T, without a zero at its end, to that of JetPack."""

COMPUTE_CAPABILITY: Mapping[str, str] = {
    "tegra210": "5.3",
    "tegra186": "6.2",
    "tegra194": "7.2",
    "tegra234": "8.7",
    "tegra264": "11.0",
}
"""SoC to the compute capability of its GPU, as CUDA 13 counts."""

PARTS: Mapping[str, str] = {
    "0x41 0xd03": "Cortex-A53", "0x41 0xd04": "Cortex-A35", "0x41 0xd05": "Cortex-A55", "0x41 0xd07": "Cortex-A57",
    "0x41 0xd08": "Cortex-A72", "0x41 0xd09": "Cortex-A73", "0x41 0xd0a": "Cortex-A75", "0x41 0xd0b": "Cortex-A76",
    "0x41 0xd0c": "Neoverse-N1", "0x41 0xd0d": "Cortex-A77", "0x41 0xd40": "Neoverse-V1", "0x41 0xd41": "Cortex-A78",
    "0x41 0xd42": "Cortex-A78AE", "0x41 0xd44": "Cortex-X1", "0x41 0xd46": "Cortex-A510", "0x41 0xd47": "Cortex-A710",
    "0x41 0xd48": "Cortex-X2", "0x41 0xd49": "Neoverse-N2", "0x41 0xd4b": "Cortex-A78C", "0x41 0xd4d": "Cortex-A715",
    "0x41 0xd4e": "Cortex-X3", "0x41 0xd4f": "Neoverse-V2", "0x41 0xd80": "Cortex-A520", "0x41 0xd81": "Cortex-A720",
    "0x41 0xd82": "Cortex-X4", "0x41 0xd83": "Neoverse-V3AE", "0x41 0xd84": "Neoverse-V3", "0x41 0xd8e": "Neoverse-N3",
    "0x4e 0x003": "NVIDIA Denver 2", "0x4e 0x004": "NVIDIA Carmel",
}  # fmt: skip
"""Implementer and part of an Arm processor, as /proc/cpuinfo writes them, to its name."""

ISA: Mapping[str, tuple[str, ...]] = {
    "dotprod": ("asimddp", "FEAT_DotProd"),
    "fp16": ("asimdhp", "FEAT_FP16"),
    "i8mm": ("i8mm", "FEAT_I8MM"),
    "bf16": ("bf16", "FEAT_BF16"),
    "sve": ("sve",),
    "sve2": ("sve2",),
    "sme": ("sme", "FEAT_SME"),
    "avx": ("avx", "AVX1.0"),
    "avx2": ("avx2", "AVX2"),
    "fma": ("fma", "FMA"),
    "f16c": ("f16c", "F16C"),
    "avx_vnni": ("avx_vnni",),
    "avx512f": ("avx512f", "AVX512F"),
    "avx512_vnni": ("avx512_vnni", "AVX512VNNI"),
    "avx512_bf16": ("avx512_bf16",),
    "avx512_fp16": ("avx512_fp16",),
    "amx_int8": ("amx_int8",),
    "amx_bf16": ("amx_bf16",),
}
"""Extension of the instruction set to what Linux and macOS call it."""


def jetpack(l4t: str) -> str:
    """Returns the release of JetPack that has this release of L4T, such as ``36.4.3``; empty where none is known."""
    return JETPACK.get(l4t) or JETPACK.get(l4t.removesuffix(".0"), "")

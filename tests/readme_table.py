# SPDX-License-Identifier: Apache-2.0
"""Writes the demo's table into README.md from its committed result: ``make docs``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rich import filesize

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULT = ROOT / "benchmarks" / "results" / "demo.json"
PLACE = re.compile(r"(<!-- demo table -->\n).*?(?=\nThe demo has no other)", re.S)


def filled(text: str) -> str:
    """The page with the table of the committed result in its place."""
    return PLACE.sub(lambda match: f"{match[1]}\n{table(json.loads(RESULT.read_text(encoding='utf-8')))}", text)


def table(result: dict[str, Any]) -> str:
    """One row a model and an artifact, and PyTorch's own row before them."""
    lines = [
        "| model | runs as | size | relative error | centred SQNR | top-1 | median |",
        "|---|---|---|---|---|---|---|",
    ]
    shown = ""
    for row in result["rows"]:
        if row["model"] != shown:
            shown = row["model"]
            lines.append(
                f"| {shown} | PyTorch | | reference | | {row['reference_top1']:.1%} | {row['reference_ms']:.2f} ms |"
            )
        parity, median = row["parity"], row["median_ms"]
        figures = f"{parity['relative_error']:.1e} | {parity['centred_sqnr_db']:.0f} dB | {row['top1']:.1%}"
        time = "on a Mac" if median is None else f"{median:.2f} ms"
        pruned, precision = "pruned" if row.get("pruning") else "", row["precision"].replace("fp32", "")
        name = " ".join(word for word in (row["format"], pruned, precision) if word)
        lines.append(f"| | {name} | {filesize.decimal(row['size'], precision=0)} | {figures} | {time} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")

# SPDX-License-Identifier: Apache-2.0
"""Runs the demo and keeps its table with where it was measured: ``python -m benchmarks.demo``, then ``make docs``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.export_cost import provenance
from vitedge.demo.run import run
from vitedge.files.plain import to_dict

RESULTS = Path(__file__).parent / "results" / "demo.json"


def main() -> None:
    """Writes the result."""
    with tempfile.TemporaryDirectory() as folder:
        result = to_dict(run(Path(folder)))
    del result["folder"]
    RESULTS.write_text(json.dumps({"provenance": provenance(), **result}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

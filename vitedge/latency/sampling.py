# SPDX-License-Identifier: Apache-2.0
"""Samples the latency of one callable in this process: warms up until the spread settles, then times its runs.

Warm-up lasts its time and until the spread settles; then at least 200 samples or 10 s. Nothing is trimmed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.latency.conclusion import DRIFT_LIMIT
from vitedge.latency.statistics import quantiles
from vitedge.latency.timing import burst, warm_up
from vitedge.recipe import check_finite, check_whole


@dataclass(frozen=True)
class Rule:
    """Durations of warm-up and measurement. The defaults are those of a result to be published."""

    warmup_s: float = 1.0
    """Seconds that a warm-up lasts at least."""
    warmup_limit_s: float = 10.0
    """Seconds in which the spread has to settle; if it does not the result is marked unstable. A model that makes fewer
    than `vitedge.latency.timing.FEWEST_WARM_UPS` runs in them gets these, within half of its patience."""
    settle: float = 0.02
    """Largest difference of CoV and of relative median between neighbouring windows of a spread that has settled."""
    samples: int = 200
    """Samples after which a model is done."""
    seconds: float = 10.0
    """Seconds of running after which a model is done with fewer samples."""
    rounds: int = 20
    """Turns that each model gets; the bootstrap resamples them."""
    patience_s: float = 600.0
    """Seconds that a model may stay silent, loading or running, before its process is ended."""

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, 1)
        check_whole("rounds", self.rounds, 1)
        for name in ("warmup_s", "warmup_limit_s", "settle", "seconds", "patience_s"):
            check_finite(name, getattr(self, name), 0)
        if self.seconds == 0 or self.patience_s == 0:
            raise BadRecipe("A measurement takes time: seconds and patience_s are above zero.")


@dataclass(frozen=True)
class Samples:
    """The samples of one measurement."""

    raw_ms: tuple[float, ...]
    """Times of single runs in milliseconds, in order."""
    warmup: int
    """Runs before the first sample."""
    settled: bool
    """Whether the spread settled during warm-up."""

    @property
    def stable(self) -> bool:
        """Whether the spread settled during warm-up and the samples do not drift."""
        return self.settled and abs(quantiles(self.raw_ms).drift) <= DRIFT_LIMIT


def measure(runner: Callable[[], Any], rule: Rule | None = None) -> Samples:
    """Warms up and measures one callable in this process, back to back.

    Args:
        runner: one inference, finished when it returns.
        rule: durations; None is the rule of a result to be published.
    """
    rule = rule or Rule()
    warmup, settled = warm_up(runner, rule.warmup_s, rule.warmup_limit_s, rule.settle, rule.patience_s)
    return Samples(burst(runner, rule.samples, rule.seconds), warmup, settled)

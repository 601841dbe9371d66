"""Ratios of two measurements that are taken in turn, so that other load on the machine affects both."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Ratio:
    """The ratios of several pairs of measurements."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        """The median, the minimum and the maximum."""
        return f"{self.median:.3f} ({min(self.values):.3f} to {max(self.values):.3f}, {len(self.values)} pairs)"


def alternate(first: Callable[[], float], second: Callable[[], float], pairs: int) -> Ratio:
    """The results of ``first`` divided by those of ``second``. They are called in turn, ``pairs`` times each."""
    return Ratio([first() / second() for _ in range(pairs)])

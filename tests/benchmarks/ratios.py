"""How two contenders compare that take turns, so that whatever else the machine does meets both alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Ratio:
    """The ratios of pairs of measurements, each taken one after the other."""

    of_pairs: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.of_pairs)

    def __str__(self) -> str:
        """The median, and the smallest and the largest."""
        return f"{self.median:.3f} ({min(self.of_pairs):.3f} to {max(self.of_pairs):.3f}, {len(self.of_pairs)} pairs)"


def alternate(first: Callable[[], float], second: Callable[[], float], pairs: int) -> Ratio:
    """What the first gives over what the second gives; each is called ``pairs`` times, in turn."""
    return Ratio([first() / second() for _ in range(pairs)])

"""What a control loop counts."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

_KEPT = 10_000  # the latest times, so that a loop may run for ever


class Statistics(NamedTuple):
    """Of a control loop since it was made. Times are in milliseconds, over the latest 10,000."""

    ticks: int
    """Calls of the loop."""
    chunks: int
    """Chunks that were drawn."""
    tick_p50: float
    """Half of the calls took at most this long."""
    tick_p99: float
    chunk_p50: float
    """Half of the chunks took at most this long to draw."""
    chunk_p99: float
    missed: int
    """Calls in which no guided action was there by the deadline."""
    late: int
    """Chunks of the plain flow that took the place of one that was late."""
    unguided: int
    """Chunks of the plain flow that took the place of one that was not finite."""
    held: int
    """Calls that were answered by `hold`: there was nothing else by the deadline, or nothing
    finite."""
    raised: int
    """Draws that raised an error."""
    inference_delay: int
    """The most calls that any of the last ten chunks took, if the loop draws ahead."""
    clipped: float
    """The share of the chunks' numbers that lie on a bound of the critic, locked dimensions left
    out."""

    def __str__(self) -> str:
        return (
            f"{self.ticks} calls, p50 {self.tick_p50:.2f} ms, p99 {self.tick_p99:.2f} ms\n"
            f"{self.chunks} chunks, p50 {self.chunk_p50:.2f} ms, p99 {self.chunk_p99:.2f} ms\n"
            f"{self.missed} deadlines missed, {self.late} chunks late, {self.unguided} unguided\n"
            f"{self.raised} errors, {self.held} calls held\n"
            f"{100 * self.clipped:.1f} % of the numbers on a bound"
        )


@dataclass
class Counts:
    """The same while it is counted."""

    ticks: int = 0
    chunks: int = 0
    missed: int = 0
    late: int = 0
    unguided: int = 0
    held: int = 0
    raised: int = 0
    clipped: float = 0.0
    delays: deque = field(default_factory=lambda: deque(maxlen=10))
    tick_seconds: deque = field(default_factory=lambda: deque(maxlen=_KEPT))
    chunk_seconds: deque = field(default_factory=lambda: deque(maxlen=_KEPT))

    def so_far(self) -> Statistics:
        """What has been counted."""
        ticks, chunks = (_percentiles(s) for s in (self.tick_seconds, self.chunk_seconds))
        delay, share = max(self.delays, default=0), self.clipped / max(self.chunks, 1)
        parts = (self.missed, self.late, self.unguided, self.held, self.raised, delay, share)
        return Statistics(self.ticks, self.chunks, *ticks, *chunks, *parts)


def _percentiles(seconds: Iterable[float]) -> tuple[float, float]:
    found = np.percentile(1000 * np.fromiter(seconds, float), [50, 99]) if seconds else (0.0, 0.0)
    return float(found[0]), float(found[1])

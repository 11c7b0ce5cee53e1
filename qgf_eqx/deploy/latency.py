"""How long an action takes, on this machine."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .._checks import check_count


class Latency(NamedTuple):
    """Times of calls, in milliseconds: `print` it."""

    first: float
    """The first call, which compiles."""
    p50: float
    p95: float
    p99: float
    most: float
    calls: int

    def __str__(self) -> str:
        return (
            f"p50 {self.p50:.2f} ms, p95 {self.p95:.2f} ms, p99 {self.p99:.2f} ms, at most "
            f"{self.most:.2f} ms of {self.calls} calls; the first took {self.first:.0f} ms"
        )


def measure_latency(act: Callable[..., Any], *inputs: Any, calls: int = 200) -> Latency:
    """Calls `act(*inputs)` and waits for its result, again and again.

    ```python
    act = qgf_eqx.jit_sampler(policy, critic, weight=0.1)
    print(measure_latency(act, obs, jax.random.key(0)))
    ```

    Measure what the robot will run, on the machine that it runs on, with its other work going on:
    the tail matters, not the median. `act` must be compiled by `jax.jit`, or it is traced again at
    each call.

    **Arguments:** the function and its inputs, and how many `calls` are timed after the first.
    """
    check_count("calls", calls, "it counts calls")

    def timed() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(act(*inputs))
        return 1000 * (time.perf_counter() - begin)

    first = timed()
    times = [timed() for _ in range(calls)]
    p50, p95, p99 = (float(np.percentile(times, q)) for q in (50, 95, 99))
    return Latency(first, p50, p95, p99, max(times), calls)

"""Control ticks under pytest-benchmark, to compare two commits.

    pytest benchmarks/cost -o addopts= --benchmark-only --benchmark-autosave
    pytest benchmarks/cost -o addopts= --benchmark-only --benchmark-compare

`--cost-methods`, `--cost-widths` and `--cost-batches` choose others than the small default set.
The project's own `addopts` skip them. What the numbers mean: `__main__.py`.
"""

from functools import partial

import jax
import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

from qgf_eqx.flops import count

from .measure import control_step, observations
from .methods import METHODS, bytes_read, make_nets


def test_tick(benchmark: BenchmarkFixture, method: str, width: int, batch: int) -> None:
    drawn = METHODS[method]
    nets = make_nets(drawn.passes, width, False)
    act = partial(drawn.act, unroll=False)
    program = control_step(act, nets, batch)
    obs, key = observations(batch), jax.random.key(0)
    benchmark.group = f"{method}, width {width}, batch {batch}"
    benchmark.extra_info |= program.facts | {
        "method": method,
        "width": width,
        "batch": batch,
        "backend": jax.default_backend(),
        "GFLOP per action": count(act, nets, observations(1), key) / 1e9,
        "weight reads per action (MB)": bytes_read(nets, drawn) / 1e6,
    }
    action = benchmark(lambda: np.asarray(program.step(obs, key)[0]))
    assert np.isfinite(action).all()

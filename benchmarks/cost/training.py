"""Updates per second of `qgf_eqx.learn`, against a bare jitted update of the same losses.

The bare update is one jit call per gradient step, with a fixed batch that is already on the
device: no sampling, no logging. The two alternate in one process; the ratio is of medians.

    python -m benchmarks.cost.training [--width 128] [--batch 256]

Writes `benchmarks/results/training.json`.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qgf_eqx._provenance import machine, versions, write_json
from qgf_eqx.data import Dataset, draw_chunks
from qgf_eqx.learn import Spec, TrainConfig, Units, learners, make_updates, update_team
from qgf_eqx.learn._updates import init, stacked

from .. import RESULTS

OBS, ACTION, ROWS = 28, 5, 100_000  # the sizes of cube-single


def fake_data() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(
        jnp.asarray(rng.normal(size=(ROWS, OBS)), jnp.float32),
        jnp.asarray(rng.uniform(-1, 1, (ROWS, ACTION)), jnp.float32),
        -jnp.ones(ROWS),
        jnp.zeros(ROWS),
        jnp.asarray(np.arange(ROWS) % 1001 == 1000, jnp.float32),
    )


def clock(run: Callable[[int], None], count: int) -> tuple[float, float]:
    """Updates per second of the clock, and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run(count)
    return count / (time.perf_counter() - wall), count / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--count", type=int, default=200, help="updates per measurement")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    nets = learners(width=arguments.width)
    config, spec = TrainConfig("none", batch=arguments.batch, **nets), Spec(OBS, (5, ACTION))
    data = fake_data()
    updates = make_updates(config, spec, Units(None, None))
    states = {"ours": stacked([init(config, spec)]), "bare": init(config, spec)}
    bare_update = eqx.filter_jit(partial(update_team, config.team, spec), donate="none")
    batch = draw_chunks(
        data, 0, jnp.zeros((), int), batch=config.batch, horizon=config.horizon, gamma=config.gamma
    )
    key = jax.random.key(0)

    def ours(count: int) -> None:
        states["ours"], _ = jax.block_until_ready(updates(data, states["ours"], count))

    def bare(count: int) -> None:
        for _ in range(count):
            states["bare"], _ = bare_update(states["bare"], batch, key)
        jax.block_until_ready(states["bare"])

    for run in (ours, bare):
        run(arguments.count)  # compiles
    measured = {"ours": [], "bare": []}
    for _ in range(arguments.rounds):
        measured["ours"].append(clock(ours, arguments.count))
        measured["bare"].append(clock(bare, arguments.count))
    median = {name: np.median(values, axis=0) for name, values in measured.items()}
    results = {
        "updates per second": {name: values[0] for name, values in median.items()},
        "updates per CPU-second": {name: values[1] for name, values in median.items()},
        "ratio ours / bare": {
            "wall": median["ours"][0] / median["bare"][0],
            "CPU": median["ours"][1] / median["bare"][1],
        },
        "sizes": f"obs {OBS}, chunk 5 x {ACTION}, nets 4 x {arguments.width}, batch {config.batch}",
        "rounds": arguments.rounds,
        "count": arguments.count,
        "versions": versions(),
        "machine": machine(),
    }
    path = RESULTS / "training.json"
    write_json(path, results)
    print({name: results[name] for name in list(results)[:4]})
    print(f"The results are in {path}")


if __name__ == "__main__":
    main()

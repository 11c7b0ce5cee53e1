"""What success costs on cube-single: in latency, and in FLOPs.

    python -m benchmarks.studies.worth

Takes the success rates of the four training runs in `results/best_of_cube*.json`, and measures
latency at batch 1 and GFLOP per action of the same methods with networks of those runs' sizes (obs
28, chunk 5 x 5, 4 x 128, two critics, their mean). Writes `benchmarks/results/worth_cube.json`,
prints the table of docs/costs.md.
"""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from qgf_eqx import bounded, jit_sampler, sample
from qgf_eqx._provenance import machine, versions, write_json
from qgf_eqx.flops import count
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP
from qgf_eqx.weights import LinearDecay

from .. import RESULTS
from .training_runs import FIXED, NAMES, interval, rates

OBS, SHAPE, WIDTH = 28, (5, 5), 128
GUIDED = {"weight": LinearDecay(0.15)}
METHODS = {
    "flow": {"weight": 0},
    "best-of-4": {"weight": 0, "best_of": 4},
    "qgf": GUIDED,
    "best-of-16": {"weight": 0, "best_of": 16},
    "qgf-best-of-4": GUIDED | {"best_of": 4},
}


def nets():
    policy_key, critic_key = jax.random.split(jax.random.key(0))
    policy = VelocityMLP(OBS, SHAPE, width=WIDTH, key=policy_key)
    make = lambda key: CriticMLP(OBS, SHAPE, width=WIDTH, key=key)  # noqa: E731
    return policy, bounded(Ensemble(make, 2, reduce=jnp.mean, key=critic_key))


def ticks(act, repeats):
    """Clock seconds of every control tick."""
    obs, key, found = np.zeros(OBS, np.float32), jax.random.key(1), []
    for _ in range(repeats):
        started = time.perf_counter()
        action, key = act(obs, key)
        np.asarray(action)
        found.append(time.perf_counter() - started)
    return found


def main():
    policy, critic = nets()
    acts = {name: jit_sampler(policy, critic, **options) for name, options in METHODS.items()}
    clock = {name: [] for name in METHODS}
    for _ in range(50):  # alternately, so that a slow moment hits them all
        for name, act in acts.items():
            clock[name] += ticks(act, 100)[1:]
    rows = []
    for name, options in METHODS.items():
        call = lambda obs, key, o=options: sample(policy, critic, obs, key, **o)  # noqa: E731
        success, low, high = interval(rates(FIXED, name))
        latency = 1e3 * float(np.median(clock[name]))
        gflop = count(call, jnp.zeros(OBS), jax.random.key(0)) / 1e9
        row = {"success (%)": success, "interval over training runs": [low, high]}
        row |= {"latency p50 (ms)": latency, "GFLOP per action": gflop}
        rows.append({"method": name} | row)
    results = {"rows": rows, "load": os.getloadavg()[0], "machine": machine()}
    write_json(RESULTS / "worth_cube.json", results | {"versions": versions()})
    print(tables(results))


def tables(results):
    """What the docs show, in Markdown."""
    lines = ["| | success (%) [95 % over runs] | latency at batch 1 (ms) | MFLOP |"]
    lines += ["|---|---|---|---|"]
    for row in results["rows"]:
        low, high = row["interval over training runs"]
        cells = [NAMES[row["method"]], f"{row['success (%)']:.1f} [{low:.1f}, {high:.1f}]"]
        cells += [f"{row['latency p50 (ms)']:.2f}", f"{1e3 * row['GFLOP per action']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

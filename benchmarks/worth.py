"""What success costs on cube-single: per millisecond of latency, and per GFLOP.

    python benchmarks/worth.py

Takes the success rates of `results/cube_single_task2.json`, and measures latency at batch
1 and GFLOP per action of the same methods with networks of that run's sizes (obs 28, chunk 5 x 5,
4 x 128, two critics, their mean). Writes `benchmarks/results/worth_cube.json`.
"""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qgf_eqx import bounded, guidance, jit_sampler, sample
from qgf_eqx._provenance import machine, versions, write_json
from qgf_eqx.flops import count
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP
from qgf_eqx.weights import LinearDecay

RESULTS = Path(__file__).parent / "results"
OBS, SHAPE, WIDTH = 28, (5, 5), 128
GUIDED = {"weight": LinearDecay(0.15)}
METHODS = {
    "flow": {"weight": 0},
    "qgf": GUIDED,
    "ood": GUIDED | {"guidance": guidance.ood},
    "best-of-16": {"weight": 0, "best_of": 16},
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
    table = json.loads((RESULTS / "cube_single_task2.json").read_text())["table"]
    success = {row["method"]: row for row in table}
    policy, critic = nets()
    acts = {name: jit_sampler(policy, critic, **options) for name, options in METHODS.items()}
    clock = {name: [] for name in METHODS}
    for _ in range(10):  # alternately, so that a slow moment hits them all
        for name, act in acts.items():
            clock[name] += ticks(act, 200)
    rows = []
    for name, options in METHODS.items():
        call = lambda obs, key, o=options: sample(policy, critic, obs, key, **o)  # noqa: E731
        latency = 1e3 * float(np.median(clock[name]))
        gflop = count(call, jnp.zeros(OBS), jax.random.key(0)) / 1e9
        rate, interval = success[name]["success"], success[name]["interval"]
        rows.append(
            {
                "method": name,
                "success": rate,
                "interval": interval,
                "n": success[name]["n"],
                "latency p50 (ms)": latency,
                "GFLOP per action": gflop,
                "success per ms": rate / latency,
                "success per GFLOP": rate / gflop,
            }
        )
        print(
            f"| {name} | {100 * rate:.1f} % | {latency:.2f} | {gflop:.4f} | {rate / latency:.2f} "
            f"| {rate / gflop:.0f} |"
        )
    results = {"rows": rows, "machine": machine(), "versions": versions()}
    write_json(RESULTS / "worth_cube.json", results)


if __name__ == "__main__":
    main()

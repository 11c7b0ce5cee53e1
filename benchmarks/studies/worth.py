"""What success costs on cube-single: in latency, and in FLOPs.

    python -m benchmarks.studies.worth

Takes the success rates of the four training runs in `results/best_of_cube*.json`, and measures
latency at batch 1 and GFLOP per action of the same methods with networks of those runs' sizes (obs
28, chunk 5 x 5, 4 x 128, two critics, their mean). Writes `benchmarks/results/worth_cube.json`,
prints the table of docs/costs.md.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qgf_eqx import bounded, jit_sampler, sample
from qgf_eqx._provenance import machine, versions, write_json
from qgf_eqx._types import Critic, Policy
from qgf_eqx.evaluate.names import label, method
from qgf_eqx.flops import count
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP
from qgf_eqx.weights import LinearDecay

from .. import RESULTS
from .training_runs import FIXED, interval, rates

OBS, SHAPE, WIDTH = 28, (5, 5), 128
METHODS = ("flow", "best-of-4", "qgf", "best-of-16", "qgf-best-of-4")


def options(name: str) -> dict[str, Any]:
    """Of `sample`."""
    known = method(name, weight=LinearDecay(0.15))
    return {"guidance": known.guidance, "weight": known.weight, "best_of": known.best_of}


def nets() -> tuple[Policy, Critic]:
    policy_key, critic_key = jax.random.split(jax.random.key(0))
    policy = VelocityMLP(OBS, SHAPE, width=WIDTH, key=policy_key)
    make = lambda key: CriticMLP(OBS, SHAPE, width=WIDTH, key=key)  # noqa: E731
    return policy, bounded(Ensemble(make, 2, reduce=jnp.mean, key=critic_key))


def ticks(act: Callable, repeats: int) -> list[float]:
    """Clock seconds of every control tick."""
    obs, key, found = np.zeros(OBS, np.float32), jax.random.key(1), []
    for _ in range(repeats):
        started = time.perf_counter()
        action, key = act(obs, key)
        np.asarray(action)
        found.append(time.perf_counter() - started)
    return found


def main() -> None:
    policy, critic = nets()
    acts = {name: jit_sampler(policy, critic, **options(name)) for name in METHODS}
    clock = {name: [] for name in METHODS}
    for _ in range(50):  # alternately, so that a slow moment hits them all
        for name, act in acts.items():
            clock[name] += ticks(act, 100)[1:]
    rows = []
    for name in METHODS:
        call = eqx.Partial(sample, policy, critic, **options(name))
        success, low, high = interval(rates(FIXED, name))
        latency = 1e3 * float(np.median(clock[name]))
        gflop = count(call, jnp.zeros(OBS), jax.random.key(0)) / 1e9
        row = {"success (%)": success, "interval over training runs": [low, high]}
        row |= {"latency p50 (ms)": latency, "GFLOP per action": gflop}
        rows.append({"method": name} | row)
    results = {"rows": rows, "load": os.getloadavg()[0], "machine": machine()}
    write_json(RESULTS / "worth_cube.json", results | {"versions": versions()})
    print(tables(results))


def tables(results: dict[str, Any]) -> str:
    """What the docs show, in Markdown."""
    lines = ["| | success (%) [95 % over runs] | latency at batch 1 (ms) | MFLOP |"]
    lines += ["|---|---|---|---|"]
    for row in results["rows"]:
        low, high = row["interval over training runs"]
        cells = [label(row["method"]), f"{row['success (%)']:.1f} [{low:.1f}, {high:.1f}]"]
        cells += [f"{row['latency p50 (ms)']:.2f}", f"{1e3 * row['GFLOP per action']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

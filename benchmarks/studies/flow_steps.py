"""Does a flow get worse when it takes more steps than it was trained with?

Trains the same flow twice, with this package's time (low frequencies, t ~ U[0, 1]) and with the
paper's (a sinusoid of 10000 t, t on the grid of T = 10), and samples both with T = 10, 20 and 40
Euler steps, and with Heun: on a one-dimensional mixture, and on trained cube-single runs.

    python -m benchmarks.studies.flow_steps mixture
    python -m benchmarks.studies.flow_steps cube RUN PAPER_RUN --data-dir data

where the runs are made by `qgf-eqx train`, the second with `--flow-paper-time`. Writes
`benchmarks/results/flow_steps_<part>.json`.
"""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from qgf_eqx import denoise
from qgf_eqx._provenance import machine, versions, write_json
from qgf_eqx.analytic import MixtureFlow
from qgf_eqx.data import load
from qgf_eqx.evaluate import evaluate
from qgf_eqx.evaluate.names import method
from qgf_eqx.evaluate.statistics import wilson
from qgf_eqx.learn import load_run
from qgf_eqx.nn import VelocityMLP, low_frequency_time, paper_time
from qgf_eqx.objectives import flow_matching, grid_time, uniform_time
from qgf_eqx.weights import LinearDecay

from .. import RESULTS

STEPS = (10, 20, 40)
METHODS = ("flow", "qgf", "best-of-16")
WEIGHT = LinearDecay(0.15)  # what the cube experiment chose
KINDS = {"low frequencies": (low_frequency_time, uniform_time), "paper": (paper_time, grid_time)}


def train_mixture(
    data: MixtureFlow,
    embed: Callable,
    time: Callable,
    *,
    seed: int,
    updates: int = 20_000,
    batch: int = 256,
) -> VelocityMLP:
    net_key, train_key = jax.random.split(jax.random.key(seed))
    policy = VelocityMLP(0, (), width=64, depth=3, embed=embed, key=net_key)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, updates))
    arrays, static = eqx.partition(policy, eqx.is_array)

    def loss(arrays, keys, actions):
        policy = eqx.combine(arrays, static)
        one = partial(flow_matching, policy, None, time=time)
        return jnp.mean(jax.vmap(one)(actions, keys))

    def update(carry, key):
        arrays, memory = carry
        draw_key, loss_key = jax.random.split(key)
        actions = data.draw(draw_key, batch)
        gradient = jax.grad(loss)(arrays, jax.random.split(loss_key, batch), actions)
        changes, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(arrays, changes), memory), None

    keys = jax.random.split(train_key, updates)
    start = (arrays, optimizer.init(arrays))
    (arrays, _), _ = jax.jit(lambda c, k: jax.lax.scan(update, c, k))(start, keys)
    return eqx.combine(arrays, static)


def velocity_error(policy: VelocityMLP, data: MixtureFlow, times: np.ndarray) -> float:
    """RMSE of the velocity over the flow's own points at the given times."""

    @jax.jit
    @jax.vmap
    def squares(key, t):
        noise_key, data_key = jax.random.split(key)
        a = (1 - t) * jax.random.normal(noise_key, (2000,)) + t * data.draw(data_key, 2000)
        difference = jax.vmap(lambda a: policy(None, a, t) - data(None, a, t))(a)
        return jnp.mean(difference**2)

    keys = jax.random.split(jax.random.key(9), len(times))
    return float(jnp.sqrt(jnp.mean(squares(keys, jnp.asarray(times, jnp.float32)))))


def mixture() -> dict[str, Any]:
    data = MixtureFlow(jnp.array([1.0, 3.0, 5.0]), 0.1)
    truth = np.asarray(data.draw(jax.random.key(1), 100_000))
    noises = jax.random.normal(jax.random.key(2), (20_000,))
    solvers = [(f"Euler {n}", n, None) for n in STEPS] + [("Heun 20", 20, diffrax.Heun())]
    rows = []
    for seed in range(3):
        for kind, (embed, time) in KINDS.items():
            policy = train_mixture(data, embed, time, seed=seed)
            row = {
                "time": kind,
                "seed": seed,
                "velocity RMSE on the grid": velocity_error(policy, data, np.arange(10) / 10),
                "velocity RMSE between": velocity_error(policy, data, np.arange(10) / 10 + 0.05),
            }
            for name, steps, solver in solvers:
                draw = jax.jit(
                    jax.vmap(
                        lambda a, p=policy, n=steps, s=solver: denoise(
                            p, None, a, 0.0, steps=n, solver=s
                        )
                    )
                )
                samples = np.asarray(draw(noises))
                row[f"W1, {name}"] = stats.wasserstein_distance(samples, truth)
            rows.append(row)
            print(row, flush=True)
    return {"rows": rows, "samples": len(noises), "updates": 20_000, "net": "3 x 64", "batch": 256}


def cube(runs: dict[str, str], data_dir: str, episodes: int) -> dict[str, Any]:
    env = load_run(runs["low frequencies"]).config.env
    held_out = load(env, data_dir, split="val")
    rows, observations = [], 0
    for kind, run in runs.items():
        nets = load_run(run)
        config = nets.config
        starts = np.arange(0, len(held_out.episode_end) - config.horizon, 3)
        rows_of = starts[:, None] + np.arange(config.horizon)
        whole = held_out.episode_end[rows_of].sum(axis=1) == 0
        starts, rows_of = starts[whole], rows_of[whole]
        observations = len(starts)
        actions = held_out.actions[rows_of].reshape(len(starts), -1)
        noises = jax.random.normal(jax.random.key(0), (len(starts), *nets.policy.action_shape))
        methods = [
            dataclasses.replace(method(name, weight=WEIGHT, steps=steps), reduce=jnp.mean)
            for steps in STEPS
            for name in METHODS
        ]
        numbers = range(3_000_000, 3_000_000 + episodes)
        outcomes = iter(evaluate(run, methods, numbers, label=kind))
        for steps in STEPS:
            draw = jax.jit(
                jax.vmap(lambda o, a, p=nets.policy, n=steps: denoise(p, o, a, 0.0, steps=n))
            )
            samples = np.asarray(draw(jnp.asarray(held_out.obs[starts]), noises))
            samples = np.clip(samples.reshape(len(starts), -1), -1, 1)
            distances = [
                stats.wasserstein_distance(s, a) for s, a in zip(samples.T, actions.T, strict=True)
            ]
            row = {"time": kind, "T": steps, "W1 to held-out actions": float(np.mean(distances))}
            for name in METHODS:
                successes = sum(e.success for e in next(outcomes))
                row[f"{name} success"] = successes / episodes
                row[f"{name} interval"] = wilson(successes, episodes)
            rows.append({**row, "n": episodes})
            print(rows[-1], flush=True)
    return {
        "env": env,
        "W1": "mean over the dimensions of the action",
        "weight": str(WEIGHT),
        "critics reduced by": "mean",
        "observations": observations,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["mixture", "cube"])
    parser.add_argument("runs", nargs="*", help="for cube: a run, and one of --flow-paper-time")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--episodes", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.part == "mixture":
        results = mixture()
    else:
        runs = dict(zip(KINDS, arguments.runs, strict=True))
        results = cube(runs, arguments.data_dir, arguments.episodes)
    path = RESULTS / f"flow_steps_{arguments.part}.json"
    write_json(path, {**results, "versions": versions(), "machine": machine()})
    print(f"The results are in {path}")


if __name__ == "__main__":
    main()

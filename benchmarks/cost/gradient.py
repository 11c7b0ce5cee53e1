"""BPTT's gradient alone, from the first step of the flow: the library's against a plain `scan`.

    python -m benchmarks.cost.gradient

A batch of 64, networks 4 x 512 and 4 x 1024, T = 10, two critics. Run alternately; the library's
speed over the plain formulation's, by the clock and by CPU time: medians with quartiles; and its
speed as a share of that of bare products of the same shapes.
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qgf_eqx import guidance
from qgf_eqx._types import Action, Critic, Obs, Policy
from qgf_eqx.flops import count
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP

from . import plain
from .methods import OBS, SHAPE, STEPS

BATCH, ROUNDS = 64, 25


def ours(policy: Policy, critic: Critic, obs: Obs, a_t: Action) -> Action:
    return guidance.bptt(policy, critic, obs, a_t, 0.0, steps=STEPS)


def written_plainly(policy: Policy, critic: Any, obs: Obs, a_t: Action) -> Action:
    def outcome(a):
        field = lambda a, t: plain.velocity(policy, obs, a, t)  # noqa: E731
        return plain.value(critic, obs, plain.walk(field, a, plain.grid(STEPS), STEPS))

    return jax.grad(outcome)(a_t)


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    obs = jax.random.normal(keys[2], (BATCH, OBS))
    a_t = jax.random.normal(keys[3], (BATCH, *SHAPE))
    for width in (512, 1024):
        policy = VelocityMLP(OBS, SHAPE, width=width, key=keys[0])
        critic = Ensemble(lambda k, w=width: CriticMLP(OBS, SHAPE, width=w, key=k), 2, key=keys[1])
        runs = []
        for gradient, q in ((ours, critic), (written_plainly, plain.stack(critic))):
            one = eqx.Partial(gradient, policy, q)
            runs.append(eqx.Partial(eqx.filter_jit(eqx.filter_vmap(one)), obs, a_t))
        rows, square = jnp.ones((BATCH, width)), jnp.eye(width)
        chain = lambda x, w: jax.lax.fori_loop(0, 200, lambda i, x: x @ w.T, x)  # noqa: E731
        runs.append(eqx.Partial(jax.jit(chain), rows, square))
        flop = count(jax.vmap(eqx.Partial(ours, policy, critic)), obs, a_t)
        found = [run() for run in runs]
        np.testing.assert_allclose(found[0], found[1], rtol=2e-3, atol=2e-5)
        times = []
        for _ in range(ROUNDS):
            times.append([])
            for run in runs:
                clock, cpu = time.perf_counter(), time.process_time()
                jnp.asarray(run()).block_until_ready()
                times[-1].append((time.perf_counter() - clock, time.process_time() - cpu))
        times = np.array(times)
        ratios = np.percentile(times[:, 1] / times[:, 0], (25, 50, 75), axis=0).T
        said = (f"{m:.2f} [{low:.2f}, {high:.2f}]" for low, m, high in ratios)
        rate = np.array([flop, flop, 200 * 2 * BATCH * width**2]) / np.median(
            times[:, :, 0], axis=0
        )
        share = f"{rate[0] / rate[2]:.2f} of the speed of bare products"
        print(f"4 x {width}: clock {next(said)}, CPU time {next(said)}, {share}")


if __name__ == "__main__":
    main()

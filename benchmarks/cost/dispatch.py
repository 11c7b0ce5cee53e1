"""What a call costs before anything is computed: `jit_sampler`'s way against `equinox.filter_jit`.

    python -m benchmarks.cost.dispatch

A body that computes next to nothing, with the parameters of a 4 x 512 policy and two critics: as
arguments of `filter_jit`, as flat leaves of `jax.jit`, and as constants of the program, which is
what `jit_sampler` does. Medians of 2000 calls, alternately, in microseconds.
"""

import time

import equinox as eqx
import jax
import numpy as np

from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP

KEY = jax.random.key(0)
OBS = np.ones(46, np.float32)


def main() -> None:
    policy = VelocityMLP(46, (5, 5), width=512, key=KEY)
    critic = Ensemble(lambda k: CriticMLP(46, (5, 5), width=512, key=k), 2, key=KEY)
    arrays, static = eqx.partition((policy, critic), eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def body(nets, obs, key):
        policy, _ = nets
        return obs + policy.mlp.head.bias[0], key

    filtered = eqx.filter_jit(body)
    flat = jax.jit(lambda x, o, k: body(eqx.combine(structure.unflatten(x), static), o, k))
    closed = jax.jit(lambda o, k: body((policy, critic), o, k))
    calls = {
        "filter_jit": lambda: filtered((policy, critic), OBS, KEY),
        "flat leaves": lambda: flat(leaves, OBS, KEY),
        "constants": lambda: closed(OBS, KEY),
        "constants, checked": lambda: np.isfinite(OBS).all() and closed(OBS, KEY),
    }
    times = {name: [] for name in calls}
    for _ in range(2100):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    for name, found in times.items():
        print(f"{name}: {1e6 * np.median(found[100:]):.1f} us")


if __name__ == "__main__":
    main()

# %% [markdown]
# # The cost of an action
#
# We count operations and measure latency. The two can disagree.

# %%
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import qgf_eqx
from qgf_eqx import flops, guidance
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP

keys = jax.random.split(jax.random.key(0), 2)
policy = VelocityMLP(46, (5, 5), width=256, key=keys[0])
critic = Ensemble(lambda key: CriticMLP(46, (5, 5), width=256, key=key), 2, key=keys[1])
obs, key = np.zeros(46, np.float32), jax.random.key(1)

methods = {
    "flow": {"weight": 0},
    "qgf": {},
    "qgf-jacobian": {"guidance": guidance.qgf_jacobian},
    "best-of-4": {"weight": 0, "best_of": 4},
    "best-of-16": {"weight": 0, "best_of": 16},
}

# %% [markdown]
# **Count.** `flops.count` reads the program and runs nothing. A scan of ten steps counts ten times.
# Operations that the compiler removes do not count, and an operation that cannot be counted raises
# an error.

# %%
counted = {
    name: flops.count(
        eqx.Partial(qgf_eqx.sample, **options), policy, critic, jnp.asarray(obs), key
    )
    for name, options in methods.items()
}

# %% [markdown]
# **Measure** as in a control loop: pass one observation from the host and wait for the action. We
# report the median and the 95th percentile of three hundred ticks, after one that compiles.


# %%
def ticks(act, key, count=300):
    took = []
    for _ in range(count + 1):
        start = time.perf_counter()
        action, key = act(obs, key)
        np.asarray(action)
        took.append(time.perf_counter() - start)
    return 1e3 * np.percentile(took[1:], [50, 95])


print(f"{jax.devices()[0].device_kind}: width 256, T = 10, two critics, batch 1")
median = {}
for name, options in methods.items():
    p50, p95 = ticks(qgf_eqx.jit_sampler(policy, critic, **options), key)
    median[name] = p50
    print(f"{name:>14} {counted[name] / 1e9:7.4f} GFLOP {p50:7.2f} ms, p95 {p95:.2f}")

beside_the_flow = [found["best-of-16"] / found["flow"] for found in (counted, median)]
print(
    "best-of-16 beside the flow: {:.0f} x the GFLOP, {:.1f} x the time".format(
        *beside_the_flow
    )
)

# %%
from matplotlib import pyplot

figure, (left, right) = pyplot.subplots(
    1, 2, figsize=(8, 2.6), layout="constrained", sharey=True
)
left.barh(list(counted), [n / 1e9 for n in counted.values()])
left.set(xlabel="GFLOP per action")
right.barh(list(median), list(median.values()))
right.set(xlabel="ms per action, median")
figure.savefig("cost.svg")

# %% [markdown]
# At batch 1, reading weights and launching small operations takes a large part of the time, and
# sixteen candidates share both. So best-of-16 takes less time than its operations suggest. `python
# -m benchmarks.cost` measures every method this way, and compares ten of them with a plain
# implementation.

# %% [markdown]
# # Guide an analytic flow
#
# A flow with three modes, whose velocity is known exactly, and a critic that prefers one of them.
# Nothing is trained, so you see the effect of guidance alone.

# %%
import jax
import jax.numpy as jnp

import qgf_eqx
from qgf_eqx import guidance
from qgf_eqx.analytic import MixtureFlow

policy = MixtureFlow(means=jnp.array([1.0, 3.0, 5.0]), stds=0.1)
critic = lambda obs, action: -((action - 3.0) ** 2)

# %% [markdown]
# One action. This policy observes nothing, so `obs` is `None`; the key determines the noise.

# %%
action = qgf_eqx.sample(policy, critic, None, jax.random.key(0), weight=1.0)
print(f"one action: {action:.2f}")

# %% [markdown]
# A thousand actions. The functions take one example. Use `vmap` over the keys, and `jit` once,
# outside.

# %%
keys = jax.random.split(jax.random.key(1), 1000)


@jax.jit
def actions(weight):
    act = lambda key: qgf_eqx.sample(policy, critic, None, key, weight=weight)
    return jax.vmap(act)(keys)


on_the_best = lambda found: float(jnp.mean(jnp.abs(found - 3) < 0.5))
shares = {weight: on_the_best(actions(weight)) for weight in (0.0, 0.1, 0.3, 1.0)}
for weight, share in shares.items():
    print(f"weight {weight}: {share:.0%} of the actions on the best mode")

# %% [markdown]
# A plot of the same actions. (Matplotlib comes with `qgf_eqx[plot]`.)

# %%
from matplotlib import pyplot

figure, axes = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
for weight in shares:
    bars = {"bins": 60, "range": (0, 6), "histtype": "step", "linewidth": 1.5}
    axes.hist(actions(weight), label=f"weight {weight}", **bars)
axes.set(xlabel="action", ylabel="of a thousand")
axes.legend(frameon=False)
figure.savefig("actions.svg")

# %% [markdown]
# To change the estimator, pass another function. OOD evaluates the critic at the noisy action. At
# weight 1 all its actions end on a wrong mode.

# %%
for estimator in (guidance.qgf, guidance.ood, guidance.bptt):
    act = lambda key: qgf_eqx.sample(
        policy, critic, None, key, guidance=estimator, weight=1.0
    )
    found = jax.jit(jax.vmap(act))(keys)
    nearest = jnp.argmin(jnp.abs(found[:, None] - policy.means), axis=1)
    print(
        f"{estimator.__name__:>5}:",
        jnp.bincount(nearest, length=3),
        "of 1000 on 1, 3 and 5",
    )

# %% [markdown]
# The parts: the action that one Euler step to t = 1 predicts from `a_t`, the gradient there, and
# one guided step. `sample` takes ten such steps.

# %%
a_t, t = jnp.asarray(0.4), 0.1
print("the predicted action is", qgf_eqx.one_step(policy, None, a_t, t))
print("the gradient there is", guidance.qgf(policy, critic, None, a_t, t))
print(
    "so the next point is",
    qgf_eqx.guided_step(policy, critic, None, a_t, t, 0.1, weight=1.0),
)

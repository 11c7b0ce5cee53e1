# %% [markdown]
# # Guide someone else's policy
#
# Someone gives you a flow policy: parameters in a dictionary, a function that takes batches,
# normalised actions, and time that runs the other way. The critic takes raw actions. You write
# three adapters, check them, look at what guidance does, and choose a weight.

# %%
import jax
import jax.numpy as jnp

import qgf_eqx
from qgf_eqx import analysis, plot
from qgf_eqx.evaluate.side_by_side import side_by_side

# %% [markdown]
# What you were given. Time 1 is noise and time 0 an action; `x` is a normalised action.

# %%
params = {"gain": jnp.array([[0.6, -0.2], [0.1, 0.5]]), "std": 0.3}
statistics = {"mean": jnp.array([0.2, 0.0]), "std": jnp.array([0.5, 0.25])}


def their_field(params, batch_of_obs, batch_of_x, batch_of_time):
    """dx/dtime of the flow to a normal law with a mean that depends on the observation."""
    mean, t = batch_of_obs @ params["gain"].T, 1 - batch_of_time[:, None]
    variance = (1 - t) ** 2 + (t * params["std"]) ** 2
    slope = (t * params["std"] ** 2 - (1 - t)) / variance
    return -(mean + slope * (batch_of_x - t * mean))


def their_critic(obs, raw_action):
    return -jnp.sum((raw_action - 0.1 * obs) ** 2)


# %% [markdown]
# The adapters take one example at a time, reverse time and with it the sign, and evaluate the
# critic at raw actions, inside the robot's limits.


# %%
def policy_of(params):
    def field(obs, a_t, t):
        time = jnp.asarray(1 - t)
        return -their_field(params, obs[None], a_t[None], time[None])[0]

    return qgf_eqx.Flow(field, action_shape=(2,))


def raw(action):
    return statistics["mean"] + statistics["std"] * action


low, high = (
    (jnp.array([x, x]) - statistics["mean"]) / statistics["std"] for x in (-1.0, 1.0)
)
critic = qgf_eqx.bounded(
    lambda obs, action: their_critic(obs, raw(action)), low=low, high=high
)

# %% [markdown]
# **Check before you guide.** Weight 0 is the plain flow, so it must draw what *their* sampler
# draws: here a normal distribution around `gain @ obs`. A wrong sign or direction of time is
# immediately obvious.

# %%
obs = jnp.array([0.5, -1.0])
keys = jax.random.split(jax.random.key(0), 2000)


@jax.jit
def actions(params, obs, weight):
    draw = lambda key: qgf_eqx.sample(
        policy_of(params), critic, obs, key, weight=weight, steps=20
    )
    return jax.vmap(draw)(keys)


plain = actions(params, obs, 0.0)
print("mean of the plain flow", plain.mean(0), "and theirs", params["gain"] @ obs)
print("deviation of the plain flow", plain.std(0), "and theirs", params["std"])

# %% [markdown]
# **How strong?** A useful weight depends on the scale of the critic. Look at weights around the
# [starting weight](../weights.md#where-to-start) in one table. Here you can play no episodes and
# have no second critic, so take [0.3 of it](../weights.md#if-you-cannot-play-episodes).

# %%
observations = jax.random.normal(jax.random.key(1), (32, 2))
policy = policy_of(params)
print(
    side_by_side(
        policy, critic, observations, jax.random.key(2), methods=["flow", "qgf"]
    )
)
start = analysis.starting_weight(policy, critic, observations, jax.random.key(2))
weight = 0.3 * float(start)

# %% [markdown]
# **Look at it.** `diagnose` reports the strength of guidance relative to the flow at each step;
# `warnings_of` describes problems in words.

# %%
noises = jax.random.normal(jax.random.key(3), (32, 16, 2))
one = lambda obs, noise: analysis.diagnose(policy, critic, obs, noise, weight=weight)
seen = jax.vmap(jax.vmap(one, (None, 0)))(observations, noises)
print("||w g|| / ||v|| by step:", [f"{share:.2f}" for share in seen.share.mean((0, 1))])
print("warnings:", analysis.warnings_of(seen))

# %%
plot.diagnostics(seen, "diagnostics.svg")

# %% [markdown]
# **Is it better?** The critic that guides says so, but this proves nothing. Only episodes, or a
# critic that was trained independently, can tell you.

# %%
value = jax.vmap(lambda action: their_critic(obs, raw(action)))
guided = actions(params, obs, weight)
print(
    f"Q: {value(plain).mean():.3f} without guidance, {value(guided).mean():.3f} with it"
)

# %% [markdown]
# The parameters are an argument of the jitted function, so new parameters do not trigger
# recompilation.

# %%
actions({**params, "std": 0.2}, obs, weight)
print("programs compiled:", actions._cache_size())

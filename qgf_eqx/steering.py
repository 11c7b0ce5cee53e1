"""Beyond one guided chain: particles, fallbacks, steps on the clean action, other fields.

QGF with best-of-N needs nothing from here: it is `sample(..., best_of=N)`.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from ._checks import (
    as_factor,
    as_floats,
    as_number,
    check_between,
    check_count,
    check_key,
    check_same_shape,
    shape_of_action,
)
from ._denoise import one_step
from ._fields import action_gradient, asked_at, given, velocity
from ._fields import critic as value_of
from ._sample import best, candidates
from ._types import Action, Critic, Guidance, Key, Obs, Policy, Time, Velocity, Weight
from .guidance import qgf


def keep_best(
    policy: Policy,
    critic: Critic,
    obs: Obs,
    key: Key,
    *,
    guidance: Guidance = qgf,
    weight: Weight = 0.1,
    steps: int = 10,
    best_of: int = 1,
) -> Action:
    """`sample` with a fallback: the best of `best_of` guided actions *and* of the plain flow's
    from the same noises.

    Its value is never below that of `sample` with this key, nor of best-of-N of the plain
    flow: guidance that went wrong, by the critic's own judgement, is not used. Arguments, return
    and errors as for `sample`. Costs the plain flow and `2 best_of` values on top of the guided.
    """
    draw = partial(candidates, policy, critic, obs, key, count=best_of, steps=steps)
    guided, plain = draw(guidance=guidance, weight=weight), draw(weight=0)
    return best(critic, obs, jnp.concatenate([guided, plain]))


def grad_step(
    critic: Critic, obs: Obs, action: Action, *, size: float | Array = 0.01, steps: int = 3
) -> Action:
    """Ascends the critic from a clean action: `steps` times `a <- clip(a + size grad Q)`.

    Clips if the critic is `bounded`. The tuned values of PA-RL are 0.01 with 3 steps on OGBench's
    cubes and puzzles, and with 5 on its scene.

    **Arguments:**

    - `critic`, `obs`: as for `critic`.
    - `action`: a clean action, say from `sample(..., weight=0)`.
    - `size`: in units of action per (Q per action).
    - `steps`: how many.

    **Returns:** an action of the same shape. Costs the critic forward and backward, `steps` times.
    """
    steps = check_count("steps", steps, "it sets the length of the scan")
    action = as_floats("action", action)
    size = as_factor("size", size, action.shape, action.dtype)
    critic = given(critic, obs)

    def step(a, _):
        return asked_at(critic, a + size * action_gradient(critic, obs, a)), None

    return jax.lax.scan(step, action, length=steps)[0]


def fk_steering(
    policy: Policy,
    critic: Critic,
    obs: Obs,
    key: Key,
    *,
    particles: int = 16,
    temperature: float | Array = 1.0,
    steps: int = 10,
    churn: float | Array = 1.0,
    threshold: float | Array = 0.5,
) -> Action:
    """One action of the tilted law `p(a) exp(Q / temperature)`, by sequential Monte Carlo.

    `particles` points walk along the flow. Each accumulates the weight
    `exp((Q(leap_t) - Q(leap_before)) / temperature)`, at the clean action its leap predicts; when
    the effective sample size falls below `threshold` of the particles, they are resampled
    systematically; the action is drawn by the final weights. The critic is asked for
    values and never for gradients. Exact as particles and steps grow.

    A step forgets part of the noise and draws it anew, and has the flow's marginals (DDIM with
    eta = `churn`); without it, resampled copies would stay copies.

    **Arguments:** `policy`, `critic`, `obs`, `key` as for `sample`, and

    - `particles`: how many.
    - `temperature`: in units of Q.
    - `steps`: of the flow.
    - `churn`: from 0, the flow's own Euler steps, to 1, the fully stochastic walk.
    - `threshold`: from 0, never resample, to 1, resample at every step.

    **Returns:** an action of shape `policy.action_shape`. Costs the policy and the critic forward,
    `particles * steps` times, and the critic `particles` times more.

    **Raises:** as `sample`, and `ValueError` if `churn` or `threshold` is not in [0, 1].

    Source: Singhal et al., *A General Framework for Inference-time Scaling and Steering of
    Diffusion Models* (Feynman-Kac steering), 2025.
    """
    particles = check_count("particles", particles, "it sets the number of particles")
    steps = check_count("steps", steps, "it sets the length of the scan")
    check_between("temperature", temperature, 0, float("inf"), open=True)
    check_between("churn", churn, 0, 1)
    check_between("threshold", threshold, 0, 1)
    check_key(key)
    shape = shape_of_action(policy, critic, "fk_steering")
    policy, critic = given(policy, obs), given(critic, obs)
    noise_key, walk_key, pick_key = jax.random.split(key, 3)
    a_t = jax.random.normal(noise_key, (particles, *shape))
    ask = jax.vmap(lambda a: _value_or_nothing(critic, obs, a) / temperature)
    leap = jax.vmap(partial(one_step, policy, obs), (0, None))

    def step(carry, k):
        a_t, before, log_weight = carry
        resample_key, step_key = jax.random.split(jax.random.fold_in(walk_key, k))
        t, later = (jnp.asarray(x, a_t.dtype) / steps for x in (k, k + 1))
        action = leap(a_t, t)
        value = ask(action)
        log_weight = log_weight + _gain(value, before)
        chosen, log_weight = _resample(resample_key, log_weight, threshold)
        noise = (a_t - t * action)[chosen] / (1 - t)
        # What remains of the noise, with its share that is drawn anew.
        kept = t * (1 - later) / (later * (1 - t))
        fresh = churn * (1 - later) * jnp.sqrt(jnp.maximum(1 - kept**2, 0))
        kept = jnp.sqrt(jnp.maximum((1 - later) ** 2 - fresh**2, 0))
        drawn = jax.random.normal(step_key, a_t.shape, a_t.dtype)
        a_t = later * action[chosen] + kept * noise + fresh * drawn
        return (a_t, value[chosen], log_weight), None

    start = (a_t, jnp.zeros(particles, a_t.dtype), jnp.zeros(particles, a_t.dtype))
    (actions, before, log_weight), _ = jax.lax.scan(step, start, jnp.arange(steps))
    actions = jax.vmap(partial(asked_at, critic))(actions)
    log_weight = log_weight + _gain(ask(actions), before)
    # Where no particle has a value above -inf, any will do whose value is known.
    known = ~jnp.isnan(jax.vmap(partial(value_of, critic, obs))(actions))
    fallback = jnp.where(known, jnp.zeros_like(log_weight), -jnp.inf)
    log_weight = jnp.where(jnp.any(log_weight > -jnp.inf), log_weight, fallback)
    return actions[jax.random.categorical(pick_key, log_weight)]


def _value_or_nothing(critic, obs, action) -> Scalar:
    value = value_of(critic, obs, action)
    return jnp.where(jnp.isnan(value), -jnp.inf, value)


def _gain(value, before):
    # A particle of no value has died; what it had before does not matter.
    return jnp.where(jnp.isneginf(value), -jnp.inf, value - jnp.where(jnp.isinf(before), 0, before))


def _resample(key, log_weight, threshold):
    """Indices of the particles that go on, and their log weights."""
    count = log_weight.shape[0]
    weight = jax.nn.softmax(log_weight)
    few = 1 / jnp.sum(weight**2) < threshold * count
    marks = jnp.arange(count, dtype=weight.dtype)
    marks = (jax.random.uniform(key, dtype=weight.dtype) + marks) / count
    same = jnp.arange(count)
    drawn = jnp.searchsorted(jnp.cumsum(weight), marks).astype(same.dtype)
    chosen = jnp.where(few, jnp.minimum(drawn, count - 1), same)
    return chosen, jnp.where(few, 0, log_weight)


class ClassifierFree(eqx.Module):
    """The policy `v_0 + weight (v_1 - v_0)` of a conditioned flow: classifier-free guidance.

    `policy` is called with the observation `(obs, condition)`, the condition being the number 1
    ("better than average") or 0 (any). CFGRL's sampler, for a flow trained by
    `objectives.cfgrl`; its weights are 1 to 15. Costs two calls of the policy.
    """

    policy: Policy
    weight: float | Array = 3.0

    @property
    def action_shape(self) -> tuple[int, ...]:
        """The policy's."""
        return shape_of_action(self.policy)

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The combined velocity at `(obs, a_t, t)`."""
        a_t = as_floats("a_t", a_t)
        weight = as_factor("weight", self.weight, a_t.shape, a_t.dtype)

        def conditioned(condition):
            return velocity(self.policy, (obs, condition), a_t, t)

        plain, better = jax.vmap(conditioned)(jnp.arange(2, dtype=a_t.dtype))
        return plain + weight * (better - plain)


class Inpainted(eqx.Module):
    """A policy whose chunks are pulled towards a given one by a `mask`: real-time chunking.

    While a robot executes the old chunk, the next must begin with what is already committed:

    `v + min(largest, (t^2 + (1-t)^2) / (t (1-t))) J^T mask (chunk - leap)`,

    with the Euler leap and its exact Jacobian `J`. It is a policy again, so that a critic guides
    it, best where nothing is committed yet: `sample(Inpainted(policy, chunk, mask), critic, obs,
    key, weight=weights.Mask(0.1, 1 - mask))`. Committed actions are followed closely but not
    exactly, so execute the committed actions themselves.

    **Arguments:**

    - `policy`: of chunks.
    - `chunk`: what is given, of the action's shape; anything where the mask is 0.
    - `mask`: from 0, free, to 1, committed; it broadcasts to the action. See `prefix_mask`.
    - `largest`: of the guidance weight, 5 in the paper.

    Costs the policy forward and backward. Source: Black et al., *Real-Time Execution of Action
    Chunking Flow Policies*, 2025.
    """

    policy: Velocity
    chunk: Float[Array, "..."]
    mask: Float[Array, "..."]
    largest: float | Array = 5.0

    @property
    def action_shape(self) -> tuple[int, ...]:
        """The chunk's."""
        return jnp.shape(self.chunk)

    def given(self, obs: Obs) -> "Inpainted":
        """The same at one observation."""
        return Inpainted(given(self.policy, obs), self.chunk, self.mask, self.largest)

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The velocity at `(obs, a_t, t)`."""
        a_t = as_floats("a_t", a_t)
        check_same_shape("chunk", jnp.shape(self.chunk), "a_t", a_t.shape)
        chunk, mask = (
            as_factor(name, x, a_t.shape, a_t.dtype)
            for name, x in (("chunk", self.chunk), ("mask", self.mask))
        )
        t = jnp.asarray(as_number("t", t, a_t.dtype), a_t.dtype)
        largest = as_number("largest", self.largest, a_t.dtype)

        def leap(a):
            v = velocity(self.policy, obs, a, t)
            return a + (1 - t) * v, v

        action, carry_back, v = jax.vjp(leap, a_t, has_aux=True)
        # Where nothing is given, anything may be in the chunk, NaN too.
        missing = jnp.where(mask == 0, 0, chunk) - jnp.where(mask == 0, 0, action)
        pull = carry_back(mask * missing)[0]
        both = t * (1 - t)
        odds = (t**2 + (1 - t) ** 2) / jnp.where(both > 0, both, 1)
        return v + jnp.where(both > 0, jnp.minimum(odds, largest), largest) * pull


def prefix_mask(horizon: int, committed: int, executed: int) -> Float[Array, "horizon 1"]:
    """Real-time chunking's soft mask over the rows of a chunk, for `Inpainted`.

    **Arguments:**

    - `horizon`: rows of a chunk.
    - `committed`: the first rows, which will be executed whatever is sampled: 1.
    - `executed`: the last rows, which the old chunk does not cover: 0. In between the mask falls
      exponentially.

    **Returns:** one factor per row, which broadcasts over the action's dimensions.

    **Raises:** `ValueError` if the two parts do not fit into the horizon.
    """
    count = partial(check_count, hint="it counts rows", least=0)
    horizon, committed, executed = (
        count(name, value)
        for name, value in (("horizon", horizon), ("committed", committed), ("executed", executed))
    )
    if committed + executed > horizon:
        raise ValueError(
            f"`committed` ({committed}) and `executed` ({executed}) must sum to at most the "
            f"horizon ({horizon})."
        )
    row = jnp.arange(horizon, dtype=float)
    c = jnp.clip((horizon - executed - row) / (horizon - executed - committed + 1), 0, 1)
    soft = c * jnp.expm1(c) / (jnp.e - 1)
    return jnp.where(row < committed, 1, soft)[:, None]

"""What guidance does: diagnostics along the flow, a weight by a budget, noise, values."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Scalar

from ._checks import (
    as_factor,
    as_floats,
    as_gradient,
    as_reals,
    as_rows,
    as_scalar,
    batch_size,
    check_between,
    check_count,
    check_key,
    check_same_shape,
)
from ._denoise import denoise, one_step
from ._fields import Bounded, action_gradient, ask, asked_at, values_of, velocity
from ._fields import critic as value_of
from ._norms import norm, spread
from ._renamed import old_names
from ._sample import Guided, guided_flow, guided_step, push, sample
from ._types import Action, Critic, Guidance, Key, Obs, Policy, Time, Velocity, Weight
from .guidance import qgf
from .likelihood import MOST_EXACT, exact_divergence, hutchinson_divergence, kl_to_reference


class Diagnostics(eqx.Module):
    """What happened at each step of a guided flow; made by `diagnose`.

    Under `jax.vmap` every array has a leading axis of flows.
    """

    t: Float[Array, "... steps"]
    """The time at which each step starts."""
    share: Float[Array, "... steps"]
    """`||w g|| / ||v||`: how strong guidance is beside the flow."""
    cosine: Float[Array, "... steps"]
    """`cos(g, v)`: 1 along the flow, 0 across, -1 against it."""
    clipped: Float[Array, "... steps"]
    """The share of the leap's dimensions that a `bounded` critic clips."""
    spread: Float[Array, "... steps"]
    """The standard deviation of the ensemble's values where the critic is asked: at the leap,
    clipped if the critic is `bounded`. In units of Q."""
    value: Float[Array, "... steps"]
    """`Q` at the leap."""
    distance: Float[Array, "... steps"]
    """Of the point after the step to the plain flow's from the same noise: root mean square
    over dimensions."""
    action: Float[Array, "..."]
    """The guided action, not clipped."""
    plain: Float[Array, "..."]
    """The plain flow's action from the same noise, not clipped."""


def diagnose(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    noise: Action,
    *,
    guidance: Guidance = qgf,
    weight: Weight = 0.1,
    steps: int = 10,
    values: Callable[[Obs, Action], Float[Array, " members"]] | None = None,
) -> Diagnostics:
    """Runs `guided_flow`, and reports what guidance does at each step.

    `jax.vmap` it over observations and noises, then see `plot.diagnostics`, `warnings_of`.

    **Arguments:** as for `guided_flow`, and

    - `values`: every member's value, `nn.Ensemble(...).values`; without it `spread` is NaN.

    Costs `guided_flow`, the plain flow, and the critics once more per step.
    """
    steps = check_count("steps", steps, "it sets the length of the scan")
    dt, noise = 1 / steps, as_floats("noise", noise)
    guided = Guided(policy, critic, guidance, weight)

    def outside(action):
        if not isinstance(critic, Bounded):
            return jnp.zeros((), noise.dtype)
        return jnp.mean((critic.to_bounds(action) != action).astype(noise.dtype))

    def step(carry, t):
        a_t, plain = carry
        v = velocity(policy, obs, a_t, t)
        added, g = push(guided, obs, a_t, t, v)
        leap = one_step(policy, obs, a_t, t)
        apart = (
            jnp.nan if values is None else spread(values_of(values, obs, asked_at(critic, leap)))
        )
        a_t = guided_step(policy, critic, obs, a_t, t, dt, guidance=guidance, weight=weight)
        plain = plain + dt * velocity(policy, obs, plain, t)
        found = {
            "t": t,
            "share": norm(added) / norm(v),
            "cosine": _cosine(g, v),
            "clipped": outside(leap),
            "spread": jnp.asarray(apart, a_t.dtype),
            "value": value_of(critic, obs, leap),
            "distance": jnp.sqrt(jnp.mean((a_t - plain) ** 2)),
        }
        return (a_t, plain), found

    times = jnp.asarray(np.arange(steps) / steps, noise.dtype)
    (action, plain), found = jax.lax.scan(step, (noise, noise), times)
    return Diagnostics(**found, action=action, plain=plain)


def warnings_of(found: Diagnostics, *, weak: float = 0.1, strong: float = 1.0) -> list[str]:
    """Warnings about a batch of `diagnose`d flows, ideally several observations with many noises
    each; an empty list if there are none.

    The scale is the flow's own spread: the root mean square of the plain actions around their
    mean over the noises. Guidance that moves actions by less than `weak` of it can hardly change
    what the robot does. If it moves them by more than `strong`, they have switched to another mode
    of the data, which may be intended, or have left the data, where the critic was never trained:
    `nearest_distance` and an independent critic's value tell which. These are rules of thumb for
    where to look: no warning does not mean that actions are better.

    **Arguments:**

    - `found`: with two leading axes, observations and noises.
    - `weak`, `strong`: the two limits, as shares of the flow's own spread.

    **Raises:** `ValueError` if `found` has other than two leading axes, or a single noise.
    """
    if np.ndim(found.t) != 3 or found.t.shape[1] < 2:
        raise ValueError(
            "`found` must have two leading axes, observations and at least two noises: "
            "`jax.vmap(jax.vmap(diagnose_one, (None, 0)), (0, 0))(observations, noises)`."
        )
    plain, action = (
        np.asarray(a).reshape(*found.t.shape[:2], -1) for a in (found.plain, found.action)
    )
    own = np.sqrt(np.mean((plain - plain.mean(1, keepdims=True)) ** 2))
    moved = np.sqrt(np.mean((action - plain) ** 2))
    said = []
    if not np.isfinite(action).all():
        said.append("some actions are not finite: the weight is far too strong, or a net is broken")
    elif moved < weak * own:
        said.append(
            f"far too weak: actions move by {moved / own:.2f} of the flow's own spread; raise the "
            "weight, or use weights.NormMatched"
        )
    elif moved > strong * own:
        said.append(
            f"strong: actions move by {moved / own:.2f} of the flow's own spread: to another mode, "
            "as guidance should where there are several, or off the data. The critic of another "
            "training seed tells which (evaluate.side_by_side, `qgf-eqx diagnose --judge`): where "
            "its value falls, lower the weight"
        )
    clipped = float(np.mean(found.clipped[..., -1]))
    if clipped > 0.25:
        said.append(f"{clipped:.0%} of the dimensions end outside the critic's bounds")
    return said


Measure: TypeAlias = Callable[[Guided, Obs, Key], Scalar]
"""How far a guided policy is from its flow at one observation."""


def flow_distance(guided: Guided, obs: Obs, key: Key, *, samples: int = 16, steps: int = 10):
    """The root mean square distance, over noises and dimensions, between guided and plain actions
    from the same noises, both clipped if the critic is `bounded`. Costs both flows, `samples`
    times."""
    noises = jax.random.normal(key, (samples, *guided.action_shape))
    ends = (
        asked_at(
            guided.critic, jax.vmap(lambda a, p=p: denoise(p, obs, a, 0.0, steps=steps))(noises)
        )
        for p in (guided, guided.policy)
    )
    return jnp.sqrt(jnp.mean(jnp.square(next(ends) - next(ends))))


def flow_kl(guided: Guided, obs: Obs, key: Key, *, samples: int = 16, steps: int = 20) -> Scalar:
    """`likelihood.kl_to_reference` of the guided policy and its own flow, in nats. Above 64
    dimensions it is an estimate by four of Hutchinson's probes."""
    divergence = exact_divergence
    if np.prod(guided.action_shape) > MOST_EXACT:
        probes = {"key": jax.random.fold_in(key, 1), "samples": 4}
        divergence = eqx.Partial(hutchinson_divergence, **probes)
    options = {"samples": samples, "steps": steps, "divergence": divergence}
    return kl_to_reference(guided, guided.policy, obs, key, **options)[0]


def starting_weight(
    policy: Policy, critic: Critic, observations: Obs, key: Key, *, noises: int = 16
) -> Scalar:
    """A weight to start the search from: the flow's own spread over the size of the gradient.

    `w = rms(a - mean a) / rms(grad Q(a))` over plain actions `a`, with a mean per observation.
    With `J = I` the pushes of a guided flow add up to `w` times a mean gradient, so this is where
    guidance can first move an action as far as noise does. Whether that helps is unknown: try
    weights from a hundredth of it to three times it on episodes.

    **Arguments:**

    - `policy`, `critic`: as for `sample`.
    - `observations`: a batch, along the first axis of every leaf.
    - `key`: for the noises.
    - `noises`: how many at each observation, two or more: the spread is over them.

    **Returns:** a scalar. Costs the plain flow and one gradient for every observation and noise.

    **Raises:** `ValueError` if `noises` is less than two.
    """
    if check_count("noises", noises, "the spread is over them") < 2:
        raise ValueError(f"`noises` must be at least 2, got {noises}: the spread is over them.")

    def one(obs, key):
        draw = lambda key: sample(policy, critic, obs, key, weight=0)  # noqa: E731
        plain = jax.vmap(draw)(jax.random.split(key, noises))
        g = jax.vmap(partial(action_gradient, critic, obs))(plain)
        return jnp.mean((plain - plain.mean(0)[None]) ** 2), jnp.mean(g**2)

    check_key(key)
    keys = jax.random.split(key, batch_size("observations", observations))
    spread, slope = jax.vmap(one)(observations, keys)
    return jnp.sqrt(jnp.mean(spread) / jnp.mean(slope))


class WeightChoice(eqx.Module):
    """What `choose_weight` chose, and what each weight spent of the budget."""

    weight: Weight | None
    """The weight that spends the most within the budget; `None` if there is none."""
    spent: Float[np.ndarray, " weights"]
    """The measure of every weight, in the order given; a mean over the observations."""
    error: Float[np.ndarray, " weights"]
    """The standard error of that mean; NaN if there is one observation."""


def choose_weight(
    policy: Velocity,
    critic: Critic,
    observations: Obs,
    key: Key,
    *,
    weights: Sequence[Weight] | Array | np.ndarray,
    budget: float,
    measure: Measure = flow_distance,
    guidance: Guidance = qgf,
) -> WeightChoice:
    """Chooses a weight offline: of `weights`, the one whose mean `measure` is largest without
    exceeding the `budget`. Of weights with equal measures it takes the smallest. The order of
    `weights` does not matter.

    It needs no environment and no reward, and bounds how far guidance goes, not whether it helps.
    For that, choose weights on held-out episodes (`comparison.tune_weight`).

    **Arguments:**

    - `policy`, `critic`: as for `guided_step`.
    - `observations`: a batch, along the first axis of every leaf.
    - `key`: for the noises, the same for every weight.
    - `weights`: to choose from: numbers, or Modules such as `LinearDecay`; each kind is compiled
      once.
    - `budget`: in the units of `measure`.
    - `measure`: `flow_distance`, `flow_kl`, or a function `(guided, obs, key) -> scalar`; its
      options are bound by `equinox.Partial`.
    - `guidance`: the estimator.

    **Returns:** the choice, and what every weight spent.

    **Raises:** `ValueError` if there are no weights, one is not finite or is given twice, or the
    budget is NaN or negative.
    """
    check_between("budget", budget, 0, np.inf)
    try:
        weights = list(weights)
    except TypeError:
        raise TypeError(f"`weights` must be several weights, got {weights!r}.") from None
    if not weights:
        raise ValueError("`weights` is empty: give weights to choose from.")
    numbers = [_numbers(weight) for weight in weights]
    for weight, found in zip(weights, numbers, strict=True):
        if not np.isfinite(found[1]).all():
            raise ValueError(f"`weights` must be finite, got {weight}.")
        if numbers.count(found) > 1:
            raise ValueError(f"`weights` has {weight} twice.")
    count = batch_size("observations", observations)
    check_key(key)
    keys = jax.random.split(key, count)

    @eqx.filter_jit
    def spend(weight):
        guided = Guided(policy, critic, guidance, weight)
        ask_one = lambda o, k: ask("measure", measure, guided=guided, obs=o, key=k)  # noqa: E731
        return jax.vmap(lambda o, k: as_scalar("measure", ask_one(o, k)))(observations, keys)

    as_array = lambda leaf: leaf if callable(leaf) else jnp.asarray(leaf, float)  # noqa: E731
    spent = np.stack([spend(jax.tree.map(as_array, weight)) for weight in weights])
    means = spent.mean(axis=1)
    within = [i for i in range(len(weights)) if means[i] <= budget]
    strength = lambda i: (means[i], [-x for x in numbers[i][1]], numbers[i][0])  # noqa: E731
    chosen = weights[max(within, key=strength)] if within else None
    return WeightChoice(chosen, means, np.asarray(jnp.std(spent, axis=1, ddof=1)) / count**0.5)


def _numbers(weight: Weight) -> tuple[str, list[float]]:
    """What tells weights apart: their kind, and all numbers in them."""
    leaves, structure = jax.tree.flatten(weight)
    functions = [repr(leaf) for leaf in leaves if callable(leaf)]
    numbers = [np.ravel(as_reals("weights", leaf)) for leaf in leaves if not callable(leaf)]
    return f"{structure}{functions}", np.concatenate([*numbers, []]).tolist()


def gradient_cosine(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    key: Key,
    *,
    std: float | Array,
    guidance: Guidance = qgf,
) -> Scalar:
    """How sensitive an estimator is to noise: `cos(g(a_t), g(a_t + std eps))`; 1 is not at all.

    **Arguments:** `policy`, `critic`, `obs`, `a_t`, `t` as for `guidance.qgf`, and

    - `key`: for the noise `eps ~ N(0, I)`.
    - `std`: its scale.
    - `guidance`: the estimator.
    """
    check_key(key)
    a_t = as_floats("a_t", a_t)
    std = as_factor("std", std, a_t.shape, a_t.dtype)
    noisy = a_t + std * jax.random.normal(key, a_t.shape, a_t.dtype)
    both = (guidance(policy, critic, obs, a, t) for a in (a_t, noisy))
    return _cosine(*(as_gradient("guidance", g, a_t) for g in both))


def nearest_distance(action: Action, data: Float[Array, "rows ..."]) -> Scalar:
    """The root mean square distance, over dimensions, to the nearest of some data actions.

    Give it data of the same observation, or of similar ones: pooled over all observations, an
    action may be near one that fits another observation.
    """
    action, data = as_floats("action", action), as_rows("data", data)
    check_same_shape("data[0]", data.shape[1:], "action", action.shape)
    squares = (data.astype(action.dtype) - action[None]) ** 2
    return jnp.sqrt(jnp.min(jnp.mean(squares.reshape(len(data), -1), axis=1)))


def share_at_bounds(
    actions: Float[Array, "rows ..."] | np.ndarray, low: ArrayLike = -1.0, high: ArrayLike = 1.0
) -> float:
    """The share of a dataset's numbers that lie at their bounds, within half a percent of the
    range; before anything is trained.

    Of six numbers it had the highest rank correlation with how far `ood` falls behind `qgf` at
    strong weights, 0.72 over nine tasks. That is a hint, and no more: see docs/off_data.md.

    **Arguments:**

    - `actions`: of the data, along the first axis.
    - `low`, `high`: their bounds, numbers or one for each dimension.

    **Raises:** `ValueError` if there are no actions, or a lower bound is above the upper one.
    """
    actions, low, high = (np.asarray(x, float) for x in (actions, low, high))
    if not actions.size:
        raise ValueError("`actions` is empty.")
    if not (low <= high).all():
        raise ValueError(f"`low` must not be above `high`, got {low} and {high}.")
    near = np.where(np.isfinite(high - low), 0.005 * (high - low), 0)
    return float(np.mean((actions <= low + near) | (actions >= high - near)))


def value_gain(
    policy: Velocity,
    critic: Critic,
    judge: Critic,
    observations: Obs,
    noises: Float[Array, "obs noises ..."],
    data: Float[Array, "rows ..."],
    *,
    guidance: Guidance = qgf,
    weight: Weight = 0.1,
    steps: int = 10,
) -> dict[str, Float[Array, "obs noises"]]:
    """What guidance does to Q, by the critic that guides and by another that does not.

    A critic's own value of the actions it guided proves nothing: it also rises where the critic
    is wrong. An independent critic, trained with another seed, and the distance to the data tell
    improvement from exploitation.

    **Arguments:** `policy`, `critic`, `guidance`, `weight`, `steps` as for `guided_flow`, and

    - `judge`: the independent critic.
    - `observations`: a batch.
    - `noises`: for each observation some starts of the flow.
    - `data`: actions of the data.

    **Returns:** for every observation and noise the critic's value, the judge's, and the
    `distance` to the nearest data action.
    """

    def one(obs, noise):
        options = {"guidance": guidance, "weight": weight, "steps": steps}
        action = guided_flow(policy, critic, obs, noise, **options)
        action = asked_at(critic, action)
        return {
            "critic": value_of(critic, obs, action),
            "judge": value_of(judge, obs, action),
            "distance": nearest_distance(action, data),
        }

    return jax.vmap(jax.vmap(one, (None, 0)))(observations, noises)


def _cosine(x, y) -> Scalar:
    return jnp.vdot(x / norm(x), y / norm(y))


__getattr__ = old_names(__name__, judge="warnings_of")

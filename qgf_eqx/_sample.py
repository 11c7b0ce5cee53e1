"""The sampler: the guided field, a step of it, its flow by Euler or any solver, and actions."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._checks import (
    as_factor,
    as_floats,
    as_gradient,
    as_number,
    as_rows,
    check_count,
    check_key,
    shape_of_action,
)
from ._fields import asked_at, given, velocity
from ._fields import critic as value_of
from ._types import Action, Critic, Guidance, Key, Obs, Policy, Time, Velocity, Weight
from .guidance import qgf
from .weights import weight_at

if TYPE_CHECKING:
    import diffrax  # takes as long to import as all of this package


class Guided(eqx.Module):
    """The guided field, `v + w g`, which is itself a policy.

    So it can be solved, scored with `likelihood.log_prob`, or guided again by another critic.
    Where the weight is zero, it is the plain policy, even if the critic is NaN there. With the
    Python number 0 as weight it never calls the critic, and is the plain policy bit for bit. With
    an array of 0, that holds if XLA rounds both programs alike: `guided_flow` and `sample` are
    tested to the bit on CPU, with JAX 0.10 to 0.12.

    **Arguments:** `policy` and `critic` as for `guidance.qgf`, and

    - `guidance`: the estimator of `g`, one of `qgf_eqx.guidance` or your own.
    - `weight`: the guidance weight `w` (1 / beta in the paper): a number, an array that
      broadcasts to the action, or a function `(t, v, g) -> w`. In units of action² per Q:
      useful values shrink as the critic's scale grows.
    """

    policy: Velocity
    critic: Critic
    guidance: Guidance = qgf
    weight: Weight = 0.1

    def __check_init__(self):
        if not callable(self.guidance):
            raise TypeError(
                "`guidance` must be a function, such as `qgf_eqx.guidance.qgf`, "
                f"got {self.guidance!r}."
            )

    @property
    def action_shape(self) -> tuple[int, ...]:
        """The policy's."""
        return shape_of_action(self.policy, self.critic)

    def given(self, obs: Obs) -> "Guided":
        """The same at one observation."""
        if _is_zero(self.weight):
            return Guided(given(self.policy, obs), self.critic, self.guidance, self.weight)
        policy, critic = given(self.policy, obs), given(self.critic, obs)
        return Guided(policy, critic, self.guidance, self.weight)

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The guided velocity at `(obs, a_t, t)`."""
        a_t = as_floats("a_t", a_t)
        t = as_number("t", t, a_t.dtype)
        v = velocity(self.policy, obs, a_t, t)
        return v if _is_zero(self.weight) else v + push(self, obs, a_t, t, v)[0]


def push(guided: Guided, obs: Obs, a_t: Action, t: Time, v: Action) -> tuple[Action, Action]:
    """What guidance adds to the velocity `v`: `w g`, and `g` itself."""
    g = as_gradient("guidance", guided.guidance(guided.policy, guided.critic, obs, a_t, t), a_t)
    w = as_factor("weight", weight_at(guided.weight, t, v, g), a_t.shape, a_t.dtype)
    return w * jnp.where((w == 0) & ~jnp.isfinite(g), 0, g), g


def guided_step(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    dt: Time,
    *,
    guidance: Guidance = qgf,
    weight: Weight = 0.1,
) -> Action:
    """One guided Euler step: `a_t + dt (v + w g)`.

    **Arguments:** `policy`, `critic`, `obs`, `a_t`, `t` as for `guidance.qgf`, `guidance` and
    `weight` as for `Guided`, and

    - `dt`: the length of the step.

    **Returns:** the point on the flow at time `t + dt`.

    **Raises:** `ValueError` if the weight, the policy's or the critic's answer has a wrong
    shape.

    Source: arXiv 2606.11087, Algorithm 1.
    """
    a_t = as_floats("a_t", a_t)
    t, dt = (as_number(name, x, a_t.dtype) for name, x in (("t", t), ("dt", dt)))
    return _advance(Guided(policy, critic, guidance, weight), obs, a_t, t, dt)


def _advance(field: Velocity, obs: Obs, a_t: Action, t: Time, dt: Time) -> Action:
    # XLA may fuse the product and the sum into one operation with one rounding, and does so in one
    # program and not in another. Behind the barrier the step is the same in all of them.
    return a_t + dt * jax.lax.optimization_barrier(field(obs, a_t, t))


def guided_flow(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    noise: Action,
    *,
    guidance: Guidance = qgf,
    weight: Weight = 0.1,
    steps: int = 10,
    unroll: bool = False,
) -> Action:
    """The guided flow from noise to action, in `steps` Euler steps at `t = k / steps`.

    Deterministic: all randomness is in the noise. The action is not clipped.

    **Arguments:** `policy`, `critic`, `obs`, `guidance`, `weight` as for `guided_step`, and

    - `noise`: the start of the flow, drawn from N(0, I).
    - `steps`: how many Euler steps; more is slower and nearer the ODE.
    - `unroll`: write the steps out instead of scanning. It compiles `steps` times longer and
      computes the same; `qgf_chain` and `bptt` then pay only for the steps that remain.

    **Returns:** an action of the shape of `noise`.

    **Raises:** as `guided_step`, and `TypeError` or `ValueError` for a bad `steps`.
    """
    return _walk(Guided(policy, critic, guidance, weight), obs, noise, steps, unroll)


def _walk(guided: Guided, obs: Obs, noise: Action, steps: int, unroll: bool = False) -> Action:
    steps = check_count("steps", steps, "it sets the length of the scan")
    noise = as_floats("noise", noise)
    field = guided.given(obs)
    times = np.arange(steps) / steps

    def step(a_t, t):
        return _advance(field, obs, a_t, t, 1 / steps), None

    if unroll:
        for t in times.tolist():
            noise, _ = step(noise, t)
        return noise
    return jax.lax.scan(step, noise, jnp.asarray(times, noise.dtype))[0]


def guided_solve(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    noise: Action,
    *,
    guidance: Guidance = qgf,
    weight: Weight = 0.1,
    steps: int = 10,
    solver: "diffrax.AbstractSolver | None" = None,
    stepsize_controller: "diffrax.AbstractStepSizeController | None" = None,
    max_steps: int = 4096,
) -> Action:
    """The guided flow from noise to action, by any explicit Diffrax solver.

    With `diffrax.Euler()` it is `guided_flow`. An adaptive solver takes as many steps as its
    tolerance asks for, `diffrax.PIDController(rtol=1e-3, atol=1e-3)`; it needs a smooth field:
    no weight that jumps, and no critic that is bounded by a hard clip.

    **Arguments:** `policy`, `critic`, `obs`, `noise`, `guidance`, `weight` as for
    `guided_flow`, and

    - `steps`: of the whole interval; with a step size controller, `1 / steps` is the first step.
    - `solver`: Heun's method by default, two calls of the field per step.
    - `stepsize_controller`: constant steps by default.
    - `max_steps`: with a step size controller, the most it may take.

    **Returns:** an action of the shape of `noise`; NaN if `max_steps` did not suffice.

    **Raises:** as `guided_flow`.
    """
    import diffrax

    steps = check_count("steps", steps, "it sets the first step")
    noise = as_floats("noise", noise)
    field = Guided(policy, critic, guidance, weight).given(obs)
    adaptive = stepsize_controller is not None
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, a_t, _: field(obs, a_t, jnp.asarray(t))),
        diffrax.Heun() if solver is None else solver,
        t0=0.0,
        t1=1.0,
        dt0=1 / steps,
        y0=noise,
        stepsize_controller=stepsize_controller if adaptive else diffrax.ConstantStepSize(),
        max_steps=max_steps if adaptive else steps + 1,
        throw=False,  # A check would call back to the host; a failure is a NaN instead.
    )
    action = solution.ys[0]  # type: ignore[index]
    return jnp.where(solution.result == diffrax.RESULTS.successful, action, jnp.nan)


def candidates(
    policy: Policy,
    critic: Critic,
    obs: Obs,
    key: Key,
    *,
    count: int,
    guidance: Guidance = qgf,
    weight: Weight = 0.1,
    steps: int = 10,
    batch_size: int | None = None,
) -> Float[Array, "count ..."]:
    """Draws `count` actions: noise, and the guided flow from it.

    Candidate `i` is drawn with `jax.random.fold_in(key, i)`. So a larger `count` only adds
    candidates, and weights or estimators with the same key share their noises. If the critic is
    `bounded`, the actions are clipped to its bounds.

    Arguments and errors as for `sample`, and `count`: how many.

    **Returns:** actions along a new first axis.
    """
    count = check_count("count", count, "it sets the number of candidates")
    draw = partial(_draw, Guided(policy, critic, guidance, weight), obs, key, steps)
    return _each(draw, jnp.arange(count), batch_size)


def best(
    critic: Critic,
    obs: Obs,
    actions: Float[Array, "count ..."],
    *,
    batch_size: int | None = None,
) -> Action:
    """The action with the highest value `Q(obs, action)`; the first of several equal ones.

    A NaN value ranks last, even below `-inf`; if all are NaN, the first action is returned. Costs
    the critic once per action, `batch_size` actions at a time; by default all at once.

    **Raises:** `ValueError` if there are no actions.
    """
    actions = as_rows("actions", actions)
    values = _each(partial(value_of, critic, obs), actions, batch_size)
    known = ~jnp.isnan(values)
    highest = jnp.max(values, where=known, initial=-jnp.inf)
    return actions[jnp.argmax(known & (values == highest))]


def sample(
    policy: Policy,
    critic: Critic,
    obs: Obs,
    key: Key,
    *,
    guidance: Guidance = qgf,
    weight: Weight = 0.1,
    steps: int = 10,
    best_of: int = 1,
    batch_size: int | None = None,
) -> Action:
    """Draws one action: noise, the guided flow, and the best of `best_of` candidates.

    Unbatched: one action for one observation. For a batch use `jax.vmap`; and wrap the
    outermost call in `jax.jit`, since an eager call compiles its scan anew each time.

    If the critic is `bounded`, the actions are clipped to its bounds, before they are
    ranked. Candidates nest (see `candidates`): a larger `best_of` never lowers the value.
    With `best_of=1` the critic's value is not computed.

    ```python
    act = lambda obs, key: qgf_eqx.sample(policy, critic, obs, key, weight=0.1)
    actions = jax.jit(jax.vmap(act))(batch_of_obs, jax.random.split(key, n))
    ```

    **Arguments:** `policy`, `critic`, `obs`, `guidance`, `weight`, `steps` as for
    `guided_flow`, and

    - `policy`: it must have an `action_shape`; `Flow(field, action_shape)` gives it one.
    - `key`: one key, from `jax.random.key`. The noise depends on its implementation and on JAX's
      default dtype: with `jax_enable_x64` the same key gives another noise. A key of the "rbg"
      kind gives noise that depends on the batch under `jax.vmap`, as JAX documents.
    - `best_of`: how many candidates; 1 is a single guided chain, and with `weight=0` this is
      best-of-N of the plain flow.
    - `batch_size`: how many candidates are drawn and ranked at a time, at most; by default all at
      once. It bounds the memory, which grows with their number times the batch of an outer
      `jax.vmap`. Candidates are the same, up to rounding.

    **Returns:** an action of shape `policy.action_shape`.

    **Raises:** `TypeError` or `ValueError` that name the argument. A NaN in `obs` that
    the policy reads gives a NaN action, never a finite one; a candidate of value NaN ranks last.
    """
    best_of = check_count("best_of", best_of, "it sets the number of candidates")
    guided = Guided(policy, critic, guidance, weight)
    if best_of == 1:
        return _draw(guided, obs, key, steps, 0)
    actions = _each(partial(_draw, guided, obs, key, steps), jnp.arange(best_of), batch_size)
    return best(critic, obs, actions, batch_size=batch_size)


def _draw(guided: Guided, obs: Obs, key: Key, steps: int, i: int | Array) -> Action:
    check_count("steps", steps, "it sets the length of the scan")
    check_key(key)
    noise = jax.random.normal(jax.random.fold_in(key, i), guided.action_shape)
    return asked_at(guided.critic, _walk(guided, obs, noise, steps))


def _each(function: Callable, rows: Array, batch_size: int | None) -> Array:
    """`function` of every row, for all of them at once, or for so many at a time."""
    if batch_size is None:
        return jax.vmap(function)(rows)
    size = check_count("batch_size", batch_size, "it counts the candidates at a time")
    # One by one without an axis of one, under which both branches of a conditional would run.
    return jax.lax.map(function, rows, batch_size=None if size == 1 else min(size, len(rows)))


def _is_zero(weight: Weight) -> bool:
    return isinstance(weight, int | float) and weight == 0

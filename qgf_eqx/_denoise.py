"""From a point on the flow to a clean action: one Euler leap, or the whole way."""

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._checks import as_floats, as_number, check_count
from ._fields import given, velocity
from ._types import Action, Obs, Time, Velocity

if TYPE_CHECKING:
    import diffrax  # takes as long to import as all of this package


def one_step(policy: Velocity, obs: Obs, a_t: Action, t: Time) -> Action:
    """The clean action guessed by one Euler leap: `a_t + (1 - t) v(obs, a_t, t)`.

    For an exact flow this is the posterior mean `E[a_1 | a_t]`. Arguments as for
    `velocity`. Costs one call of the policy.
    """
    a_t = as_floats("a_t", a_t)
    t = as_number("t", t, a_t.dtype)
    return a_t + (1 - t) * velocity(policy, obs, a_t, t)


def denoise(
    policy: Velocity,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    steps: int = 10,
    solver: "diffrax.AbstractSolver | None" = None,
    adjoint: "diffrax.AbstractAdjoint | None" = None,
) -> Action:
    """The end of the flow's ODE `da/dt = v(obs, a, t)` from `(a_t, t)` to time 1.

    `steps` is the resolution of the whole interval: from time `t` it takes
    `n = ceil((1 - t) steps)` equal steps. So a point on the sampler's grid stays on that
    grid, and at its last point this equals `one_step`.

    The default is a hand-written Euler scan, checkpointed so that its gradient costs one
    forward and one backward pass. If `t` is a number, it takes exactly `n` steps. If `t` is
    traced, it computes `steps` of them, and those past the end do nothing
    (`guided_flow(..., unroll=True)` keeps `t` a number).

    **Arguments:**

    - `policy`, `obs`, `a_t`, `t`: as for `velocity`.
    - `steps`: Euler steps of the whole interval [0, 1].
    - `solver`: `None`, or any explicit Diffrax solver, which then takes the same `n` steps.
    - `adjoint`: with a `solver`, how Diffrax differentiates it. The default is
      `RecursiveCheckpointAdjoint`; `BacksolveAdjoint` computes a different gradient.

    **Returns:** an action of the shape of `a_t`.

    **Raises:** `TypeError` or `ValueError` for `steps` that is not a positive int, and for an
    `adjoint` without a `solver`.
    """
    return walk_to_end(policy, obs, a_t, t, steps, solver, adjoint)


def walk_to_end(
    policy: Velocity,
    obs: Obs,
    a_t: Action,
    t: Time,
    steps: int,
    solver: "diffrax.AbstractSolver | None" = None,
    adjoint: "diffrax.AbstractAdjoint | None" = None,
    *,
    skip: bool = False,
) -> Action:
    """As `denoise`. With `skip`, steps past the end are not computed where `t` is traced: for those
    who do not differentiate it. (A gradient through the branch copies its weights in each step.)"""
    steps = check_count("steps", steps, "it sets the length of the scan")
    a_t = as_floats("a_t", a_t)
    policy = given(policy, obs)
    t = as_number("t", t, a_t.dtype)
    traced = isinstance(t, Tracer)
    t = t if traced else float(t)
    ceil, maximum = (jnp.ceil, jnp.maximum) if traced else (np.ceil, np.maximum)
    # A point on the grid may miss it by rounding: that must not cost a step more.
    slack = min(1e-3 + 4 * steps * float(jnp.finfo(a_t.dtype).eps), 0.4)
    count = maximum(ceil((1 - t) * steps - slack), 1)
    dt = (1 - t) / count if traced else float((1 - t) / count)
    if solver is None and adjoint is not None:
        raise ValueError("`adjoint` says how a `solver` is differentiated: pass a `solver` too.")
    if solver is not None:
        return _solve(policy, obs, a_t, t, dt, steps, solver, adjoint)

    k = np.arange(steps if traced else int(count)).astype(a_t.dtype if traced else float)
    # Past the end the last step is asked again: a policy may have no velocity at t = 1.
    minimum = jnp.minimum if traced else np.minimum
    times = jnp.asarray(t + (1 - t) * (minimum(k, count - 1) / count), a_t.dtype)

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
    def step(a, now):
        k, time = now
        move = lambda a: a + dt * velocity(policy, obs, a, time)  # noqa: E731
        if not traced:
            return move(a), None
        if skip:
            return jax.lax.cond(k < count, move, lambda a: a, a), None
        return jnp.where(k < count, move(a), a), None

    return jax.lax.scan(step, a_t, (jnp.asarray(k), times))[0]


def _solve(policy, obs, a_t, t, dt, steps, solver, adjoint):
    import diffrax

    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda time, a, _: velocity(policy, obs, a, jnp.asarray(time))),
        solver,
        t0=t,
        t1=1.0,
        dt0=dt,
        y0=a_t,
        max_steps=steps + 1,
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        throw=False,  # Fixed steps cannot fail, and a check would call back to the host.
    ).ys[0]  # type: ignore[index]

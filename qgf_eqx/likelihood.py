"""How likely an action is under a flow, and how far a guided policy has moved from its own flow."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Scalar

from ._checks import (
    as_floats,
    check_count,
    check_key,
    check_same_shape,
    known_shape,
    shape_of_action,
)
from ._fields import Bounded, velocity
from ._types import Action, Key, Obs, Policy, Velocity
from .guidance import curvature, jacobian_ortho, random_direction
from .weights import NormMatched

if TYPE_CHECKING:
    import diffrax

Divergence: TypeAlias = Callable[[Callable[[Action], Action], Action], tuple[Action, Scalar]]
"""From a field and a point to the field and its divergence there."""
MOST_EXACT = 64
"""Dimensions of which the trace is computed exactly."""


def exact_divergence(field: Callable[[Action], Action], a_t: Action) -> tuple[Action, Scalar]:
    """The field at a point, and its divergence, the trace of its Jacobian.

    Costs one forward derivative per dimension.

    **Raises:** `ValueError` above 64 dimensions: use `hutchinson_divergence` there.
    """
    a_t = as_floats("a_t", a_t)
    if a_t.size > MOST_EXACT:
        raise ValueError(
            f"the action has {a_t.size} dimensions, and an exact trace costs one derivative for "
            "each: pass `divergence=eqx.Partial(hutchinson_divergence, key=key)`."
        )
    v, derivative = _linearized(field, a_t)
    basis = jnp.eye(a_t.size, dtype=a_t.dtype).reshape(-1, *a_t.shape)
    return v, jnp.sum(jax.vmap(lambda e: jnp.vdot(e, derivative(e)))(basis))


def hutchinson_divergence(
    field: Callable[[Action], Action], a_t: Action, *, key: Key, samples: int = 1
) -> tuple[Action, Scalar]:
    """As `exact_divergence`, but an unbiased estimate: `mean_i eps_i . J eps_i` of random signs.

    The same signs are used along the whole way. Bind `key` with `equinox.Partial`. All actions of
    `kl_to_reference` then share them: what they miss is not in its standard error, so repeat it
    with other keys.
    """
    samples = check_count("samples", samples, "it sets the number of probes")
    check_key(key)
    v, derivative = _linearized(field, as_floats("a_t", a_t))
    signs = jax.random.rademacher(key, (samples, *v.shape), v.dtype)
    return v, jnp.mean(jax.vmap(lambda e: jnp.vdot(e, derivative(e)))(signs))


def _linearized(field, a_t):
    v, derivative = jax.linearize(field, a_t)
    check_same_shape("field", jnp.shape(v), "a_t", a_t.shape)
    return v, derivative


def log_prob(
    policy: Velocity,
    obs: Obs,
    action: Action,
    *,
    steps: int = 50,
    solver: "diffrax.AbstractSolver | None" = None,
    divergence: Divergence = exact_divergence,
) -> Scalar:
    """The log density of an action under a flow, by the instantaneous change of variables:
    `log N(a_0; 0, I) - integral of div v dt`, along the ODE back from the action to its noise.

    `policy` may be `Guided(...)`: this is then the guided policy's density. It is that of the ODE;
    an Euler sampler of few steps has a slightly different law. A field that jumps from one action
    to the next has no such density: a critic bounded by a hard clip, `weights.NormMatched`,
    `guidance.curvature`, `jacobian_ortho` and `random_direction` are refused. The gradient of an
    ensemble's minimum also jumps where two members are equal. It is allowed, since the jump is
    small if members agree; otherwise the density misses mass there (`jnp.mean` is smooth).

    **Arguments:**

    - `policy`, `obs`: as for `velocity`.
    - `action`: one clean action. (Without a policy's `action_shape`, a batch passes as one action
      and gives a joint density.)
    - `steps`: of the solver.
    - `solver`: any explicit Diffrax solver; `diffrax.Midpoint()` by default.
    - `divergence`: `exact_divergence`, or `hutchinson_divergence` with its key bound.

    **Returns:** a scalar, in nats. Costs, per call of the field, one forward derivative per
    dimension or per probe.

    **Raises:** `ValueError` if the action has another shape than the policy's, or if the field
    jumps.

    Source: Chen et al., *Neural Ordinary Differential Equations*, 2018; Grathwohl et al.,
    *FFJORD*, 2019.
    """
    action = as_floats("action", action)
    wanted = known_shape(policy)
    if wanted is not None:
        check_same_shape("action", action.shape, "policy.action_shape", wanted)
    noise, integral = _walk(policy, obs, action, 1.0, 0.0, steps, solver, divergence)
    return _log_normal(noise) + integral


def kl_to_reference(
    policy: Policy,
    reference: Velocity,
    obs: Obs,
    key: Key,
    *,
    samples: int = 64,
    steps: int = 50,
    solver: "diffrax.AbstractSolver | None" = None,
    divergence: Divergence = exact_divergence,
) -> tuple[Scalar, Scalar]:
    """How far a policy has moved: `KL(policy || reference) = E[log policy(a) - log reference(a)]`.

    For what guidance did to a flow: `kl_to_reference(Guided(flow, critic, weight=w), flow, ...)`.
    Best-of-N, for comparison, is at most `log N - (N - 1) / N` away.

    **Arguments:** as for `log_prob`, and

    - `policy`: from which actions are drawn; it must have an `action_shape`.
    - `reference`: the flow it is compared with.
    - `key`: for the noises.
    - `samples`: how many actions.

    **Returns:** the mean over the samples and its standard error (NaN for one), in nats.
    """
    samples = check_count("samples", samples, "it sets the number of actions")
    check_key(key)
    shape = shape_of_action(policy, reference, "kl_to_reference")
    options = {"steps": steps, "solver": solver, "divergence": divergence}

    def log_ratio(noise):
        action, integral = _walk(policy, obs, noise, 0.0, 1.0, **options)
        return _log_normal(noise) - integral - log_prob(reference, obs, action, **options)

    ratios = jax.vmap(log_ratio)(jax.random.normal(key, (samples, *shape)))
    return jnp.mean(ratios), jnp.std(ratios, ddof=1) / samples**0.5


def _walk(policy, obs, start, t0, t1, steps, solver, divergence):
    """The ODE's end from `start`, and the integral of the divergence along the way."""
    import diffrax

    steps = check_count("steps", steps, "it sets the length of a step")
    _refuse_jumps(policy)

    def field(t, state, _):
        return divergence(partial(_velocity_at, policy, obs, jnp.asarray(t)), state[0])

    ends = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Midpoint() if solver is None else solver,
        t0=t0,
        t1=t1,
        dt0=(t1 - t0) / steps,
        y0=(start, jnp.zeros((), start.dtype)),
        max_steps=steps + 1,
        throw=False,  # Fixed steps cannot fail, and a check would call back to the host.
    ).ys
    return ends[0][0], ends[1][0]  # type: ignore[index]


def _refuse_jumps(policy):
    """Looks for known causes of a jump anywhere in the policy, in what it wraps too."""
    nodes = []
    jax.tree.leaves(policy, is_leaf=lambda node: bool(nodes.append(node)))
    for node in nodes:
        # Of a partial too, and of the table of methods, whose functions have the same names.
        name = getattr(getattr(node, "func", node), "__name__", "")
        if isinstance(node, Bounded) and node.clip is jnp.clip:
            cause = (
                "`critic` is bounded by a hard clip, so the guided field jumps at the bounds",
                "Leave `clip` at its default, straight-through.",
            )
        elif isinstance(node, NormMatched):
            cause = (
                "`weights.NormMatched` keeps the size of guidance where the gradient turns round, "
                "so the guided field jumps there",
                "Use another weight.",
            )
        elif name == curvature.__name__:
            cause = (
                "`guidance.curvature` jumps where it leaves the correction out",
                "Use another estimator.",
            )
        elif name == jacobian_ortho.__name__:
            cause = (
                "`guidance.jacobian_ortho` jumps where the Jacobian's determinant changes sign",
                "Use another estimator.",
            )
        elif name == random_direction.__name__:
            cause = (
                "`guidance.random_direction` jumps from one point to the next",
                "Use another estimator.",
            )
        else:
            continue
        raise ValueError(f"{cause[0]}, and its flow has no density. {cause[1]}")


def _velocity_at(policy, obs, t, a_t):
    return velocity(policy, obs, a_t, t)


def _log_normal(noise: Action) -> Scalar:
    return -jnp.sum(noise**2) / 2 - noise.size / 2 * jnp.log(2 * jnp.asarray(jnp.pi, noise.dtype))

"""The estimators of the guidance gradient, all with the same five arguments.

Each answers: in which direction should the point `a_t` on the flow move, so that the action
it becomes has a higher value? Two choices tell them apart: where the critic is asked, and
whether the answer is carried back to `a_t` by the exact Jacobian `J` or as it is (`J = I`).

| the critic is asked at | `J = I` | exact `J` |
|---|---|---|
| the point itself | `ood`, `ood_clipped` | (the same) |
| one Euler leap away | `qgf` | `qgf_jacobian` |
| `k` Euler steps away | `look_ahead` | `look_ahead(jacobian=True)` |
| the end of the ODE | `qgf_chain` | `bptt` |

`monte_carlo` and `curvature` correct the leap's errors; `jacobian_regularized`,
`jacobian_ortho` and `jacobian_smooth` bring the exact `J` nearer to `I`; `robust` uses a critic
that was trained at noisy actions; `gated` trusts an ensemble as far as it agrees; `zero` and
`random_direction` are controls.

Options are bound with `equinox.Partial`, which, unlike a lambda, does not recompile:
`eqx.Partial(guidance.bptt, steps=20)`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import (
    as_factor,
    as_floats,
    as_gradient,
    as_number,
    check_between,
    check_count,
    check_key,
)
from ._denoise import denoise, one_step, walk_to_end
from ._fields import (
    Bounded,
    action_gradient,
    asked_at,
    has_own_gradient,
    timed_value,
    values_of,
    velocity,
)
from ._fields import critic as value_of
from ._norms import norm, spread
from ._types import Action, Critic, Guidance, Key, Obs, Time, TimedCritic, Velocity

if TYPE_CHECKING:
    import diffrax


def ood(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """The critic's gradient at the noisy point: `g = grad Q(obs, a_t)`.

    QFQL's gradient, and the paper's OOD baseline. The critic has never seen noisy actions, so this
    asks it out of its distribution; for `t` near 0 the pull towards an action `a` predicts the
    endpoint `a / t`, an overshoot. A `bounded` critic is asked at `a_t` itself, unclipped, as in
    the paper; see `ood_clipped`. Arguments and return as for `qgf`. Costs the critic forward and
    backward.

    Source: QFQL; arXiv 2606.11087.
    """
    a_t = as_floats("a_t", a_t)
    return action_gradient(critic.critic if isinstance(critic, Bounded) else critic, obs, a_t)


def ood_clipped(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`ood` with a `bounded` critic asked inside its bounds: `g = grad Q(obs, clip(a_t))`.

    Not a method of the paper. At `t = 0`, 32 % of the dimensions of a standard normal `a_t` lie
    outside [-1, 1], and the two gradients differ. For a critic without bounds it is `ood`.
    Arguments, return and cost as for `ood`.
    """
    return action_gradient(critic, obs, as_floats("a_t", a_t))


def qgf(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """Q-Guided Flow: `g = grad Q(obs, a)` at `a = a_t + (1 - t) v(obs, a_t, t)`.

    The critic is asked at the clean action that one Euler leap predicts; its gradient is
    used as it is (`J = I`). The default. Costs the policy forward (shared with the sampler's
    own call under jit) and the critic forward and backward.

    **Arguments:**

    - `policy`: any callable `(obs, a_t, t) -> velocity`.
    - `critic`: any callable `(obs, action) -> scalar`.
    - `obs`: one observation, a PyTree.
    - `a_t`: a point on the flow.
    - `t`: its time; 0 is noise, 1 is an action.

    **Returns:** the gradient, an array of the shape of `a_t`, in units of Q per action.

    **Raises:** `ValueError` if the policy or the critic returns another shape than it must.

    Source: Zhou et al., *Test-Time Gradient Guidance of Flow Policies in Reinforcement
    Learning*, arXiv 2606.11087.
    """
    return action_gradient(critic, obs, one_step(policy, obs, a_t, t))


def qgf_jacobian(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`qgf` with the leap's exact Jacobian: `g = J^T grad Q(obs, a)`, `J = da / da_t`.

    `J` is never formed: this is one vector-Jacobian product. It is zero at `t = 0` for an
    exact Gaussian flow, so the first steps are hardly guided. DPS up to its schedule.
    Arguments and return as for `qgf`. Costs the policy backward on top of `qgf`.
    """
    action, carry_back = _leap(policy, obs, a_t, t)
    return carry_back(action_gradient(critic, obs, action))[0]


def _leap(policy, obs, a_t, t):
    """The Euler leap, and how a gradient there is carried back to `a_t` by the exact Jacobian."""
    return jax.vjp(lambda a: one_step(policy, obs, a, t), as_floats("a_t", a_t))


def qgf_chain(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    steps: int = 10,
    solver: "diffrax.AbstractSolver | None" = None,
) -> Action:
    """`qgf` at the end of the ODE: `g = grad Q(obs, denoise(a_t))`, with `J = I`.

    Arguments and return as for `qgf`; `steps` and `solver` as for `denoise`, with the
    sampler's `steps` to follow its grid. Costs the remaining steps of the policy and the
    critic forward and backward.
    """
    action = walk_to_end(policy, obs, a_t, t, steps, solver, skip=True)
    return action_gradient(critic, obs, action)


def bptt(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    steps: int = 10,
    solver: "diffrax.AbstractSolver | None" = None,
    adjoint: "diffrax.AbstractAdjoint | None" = None,
) -> Action:
    """The exact gradient of the outcome: `g = d Q(obs, denoise(a_t)) / d a_t`.

    Back-propagation through the whole remaining chain: expensive, and with large gradients
    where two modes part (`figures.instability`).
    Arguments and return as for `qgf`; `steps`, `solver` and `adjoint` as for `denoise`, with
    the sampler's `steps` to follow its grid. Costs the remaining steps of the policy forward
    and backward and the critic forward and backward.
    """
    action, carry_back = jax.vjp(
        lambda a: denoise(policy, obs, a, t, steps=steps, solver=solver, adjoint=adjoint),
        as_floats("a_t", a_t),
    )
    return carry_back(action_gradient(critic, obs, action))[0]


def look_ahead(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    steps: int = 2,
    jacobian: bool = False,
) -> Action:
    """`qgf` at the end of `steps` equal Euler steps from `t` to 1; 1 step is `qgf`.

    Between the leap and the chain, at a cost that does not grow with the time that remains.
    Arguments and return as for `qgf`, and

    - `steps`: of the look-ahead, whatever `t` is.
    - `jacobian`: carry the gradient back by the exact Jacobian of the look-ahead (1 step is
      then `qgf_jacobian`) and not by the identity.

    Costs `steps` calls of the policy, forward (and backward), and the critic forward and
    backward.
    """
    steps = check_count("steps", steps, "it sets the length of the scan")
    a_t = as_floats("a_t", a_t)
    t = as_number("t", t, a_t.dtype)

    def ahead(a):
        def step(a, k):
            time = t + (1 - t) * k / steps
            return a + (1 - t) / steps * velocity(policy, obs, a, time), None

        return jax.lax.scan(step, a, jnp.arange(steps, dtype=a_t.dtype))[0]

    if not jacobian:
        return action_gradient(critic, obs, ahead(a_t))
    action, carry_back = jax.vjp(ahead, a_t)
    return carry_back(action_gradient(critic, obs, action))[0]


def posterior_std(t: Time, *, data_std: float | Array = 1.0) -> Time | Array:
    """The standard deviation of the clean action given the noisy one, for Gaussian data:
    `data_std (1 - t) / sqrt((1 - t)^2 + t^2 data_std^2)`.

    For `data_std = 1` it is the `r_t` of loss-guided diffusion. Bind the option with
    `equinox.Partial`.
    """
    return data_std * (1 - t) / ((1 - t) ** 2 + t**2 * data_std**2) ** 0.5


def monte_carlo(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    key: Key,
    samples: int = 16,
    std: float | Array | Callable[[Time], Time | Array] = posterior_std,
    temperature: float | Array = 1.0,
) -> Action:
    """The gradient of the soft value around the leap, in `a`, with `J = I`:
    `g = temperature grad_a log mean_i exp(Q(obs, a + std eps_i) / temperature)`.

    The posterior of the clean action is modelled as a Gaussian around the Euler leap `a`, with
    the same `samples` noises at every step. At `std = 0`, or at a high temperature and a
    linear critic, it is `qgf`. For Gaussian data it is calibrated: with `posterior_std` and the
    weight `weights.GaussianCovariance(1 / temperature, data_std)` the samples follow the tilted
    law `p(a) exp(Q / temperature)`.

    Arguments and return as for `qgf`, and

    - `key`: for the noises.
    - `samples`: how many.
    - `std`: of the posterior: a number, one per dimension, or a function of `t`.
    - `temperature`: in units of Q; the paper's beta, the inverse of the weight.

    Costs the policy forward and `samples` times the critic forward and backward. Source:
    loss-guided diffusion, Song et al., ICML 2023.
    """
    a_t = as_floats("a_t", a_t)
    t = as_number("t", t, a_t.dtype)
    noises = _noises(key, samples, a_t)
    width = as_factor("std", std(t) if callable(std) else std, a_t.shape, a_t.dtype)
    check_between("temperature", temperature, 0, jnp.inf, open=True)
    temperature = as_number("temperature", temperature, a_t.dtype)

    def values(action):
        return jax.vmap(lambda eps: value_of(critic, obs, action + width * eps))(noises)

    def soft_value(action):
        return temperature * jax.nn.logsumexp(values(action) / temperature)

    action = one_step(policy, obs, a_t, t)
    if not has_own_gradient(critic):
        return jax.grad(soft_value)(action)
    each = jax.vmap(lambda eps: action_gradient(critic, obs, action + width * eps))(noises)
    return jnp.tensordot(jax.nn.softmax(values(action) / temperature), each, 1)


def _noises(key, samples, a_t):
    samples = check_count("samples", samples, "it sets the number of noises")
    check_key(key)
    return jax.random.normal(key, (samples, *a_t.shape), a_t.dtype)


def curvature(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    temperature: float | Array = 1.0,
    iterations: int = 3,
    earliest: float = 0.05,
) -> Action:
    """The exactly tilted direction for a Gaussian posterior and a quadratic critic:
    `g = (I - Sigma H / temperature)^-1 Sigma grad Q(obs, a) / (1 - t)`.

    `a` is the Euler leap, `Sigma` the covariance of the clean action given the noisy one, known
    from the leap's Jacobian, `J = t / (1 - t)^2 Sigma`, and `H` the critic's Hessian at `a`.
    The schedule is inside: with a constant weight of `1 / temperature` the samples follow the
    tilted law `p(a) exp(Q / temperature)`, in the limit of many steps. With `iterations=1` and
    a linear critic it is `qgf_jacobian` times `(1 - t) / t`.

    No matrix is formed: the system is solved by conjugate gradients in the inner product of
    `Sigma`, which needs `Sigma` and `H` only as products and never the inverse of `Sigma`. Where
    the system is not positive definite (a critic so convex that the tilted law has no mass, or a
    trained flow whose Jacobian is not a covariance), the correction is left out:
    `g = Sigma grad Q / (1 - t)`. The test covers the conjugate directions that are visited: all
    directions that matter if `iterations` is the number of dimensions. A `bounded` critic
    has no curvature in the dimensions that it clips. Arguments and return as for `qgf`, and

    - `temperature`: in units of Q; the paper's beta, the inverse of the weight.
    - `iterations`: of conjugate gradients; as many as dimensions is exact.
    - `earliest`: times below it are taken as this, since `Sigma` cannot be read from `J` at 0.

    Costs the policy forward and `1 + iterations` times backward, and the critic forward and
    backward, the latter again twice per iteration. Source: Feng et al., ICML 2025,
    arXiv 2502.02150, for the covariance.
    """
    iterations = check_count("iterations", iterations, "it sets the length of the scan")
    check_between("temperature", temperature, 0, jnp.inf, open=True)
    a_t = as_floats("a_t", a_t)
    temperature = as_number("temperature", temperature, a_t.dtype)
    t = jnp.maximum(jnp.asarray(as_number("t", t, a_t.dtype), a_t.dtype), earliest)
    action, carry_back = _leap(policy, obs, a_t, t)
    g, derivative = jax.linearize(lambda a: action_gradient(critic, obs, a), action)
    inside = critic.inside(action) if isinstance(critic, Bounded) else jnp.ones_like(action)

    def hessian(x):  # symmetric: neither from nor to a dimension that is clipped
        return inside * derivative(inside * x)

    def covariance(x):
        return (1 - t) ** 2 / t * carry_back(x)[0]

    def iterate(carry, _):
        x, residual, z, p, dual, size = carry  # z = Sigma residual, p = Sigma dual
        image = dual - hessian(p) / temperature
        bend = jnp.vdot(p, image)
        # What remains after the exact solution is rounding, whose sign says nothing. It is seen in
        # `z`: a residual that a singular `Sigma` cannot carry back may remain, however large.
        solved = norm(z) <= negligible
        sound = (bend > 0) & (size > 0) & ~solved
        length = jnp.where(sound, size / jnp.where(sound, bend, 1), 0)
        x, residual = x + length * p, residual - length * image
        z = covariance(residual)
        smaller = jnp.vdot(residual, z)
        ratio = jnp.where(sound, smaller / jnp.where(sound, size, 1), 0)
        moved = (x, residual, z, z + ratio * p, residual + ratio * dual, smaller)
        return moved, sound | solved

    length = norm(g)  # divided out, since squares of very small or large numbers are lost
    g = g / jnp.where(length > 0, length, 1)
    z = covariance(g)
    negligible = 64 * jnp.finfo(z.dtype).eps * norm(z)
    start = (jnp.zeros_like(g), g, z, z, g, jnp.vdot(g, z))
    (x, *_), positive = jax.lax.scan(iterate, start, length=iterations)
    # Divided by 1 - t, but for t = 1, where all is zero.
    return length * jnp.where(jnp.all(positive), x, z) / jnp.where(t < 1, 1 - t, 1)


def jacobian_regularized(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    shrinkage: float | Array = 0.5,
) -> Action:
    """Between `qgf_jacobian` and `qgf`: `g = ((1 - shrinkage) J + shrinkage I)^T grad Q(obs, a)`.

    An ablation of the paper's appendix. Arguments and return as for `qgf`, and

    - `shrinkage`: 0 is `qgf_jacobian`, 1 is `qgf`.

    Costs what `qgf_jacobian` costs.
    """
    action, carry_back = _leap(policy, obs, a_t, t)
    g = action_gradient(critic, obs, action)
    shrinkage = as_factor("shrinkage", shrinkage, g.shape, g.dtype)
    return (1 - shrinkage) * carry_back(g)[0] + shrinkage * g


def jacobian_ortho(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """`qgf_jacobian` with `J` replaced by its orthogonal polar factor: `g = U^T grad Q(obs, a)`,
    where `J = U P`.

    An ablation of the paper's appendix, which keeps the gradient's norm. For an exact flow `J` is
    symmetric and positive, so `U = I` and this is `qgf`: it measures how far a trained flow is
    from that. Where `J` is singular, as at `t = 0`, `U` is not unique. Arguments and return as for
    `qgf`.

    The one estimator that forms `J`: costs the policy backward once per action dimension, and a
    singular value decomposition, on top of `qgf`.
    """
    action, carry_back = _leap(policy, obs, a_t, t)
    basis = jnp.eye(action.size, dtype=action.dtype).reshape(-1, *action.shape)
    jacobian = jax.vmap(lambda row: carry_back(row)[0])(basis).reshape(action.size, action.size)
    left, _, right = jnp.linalg.svd(jacobian)
    g = jnp.ravel(action_gradient(critic, obs, action))
    return ((left @ right).T @ g).reshape(action.shape)


def jacobian_smooth(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    key: Key,
    samples: int = 16,
    std: float | Array = 0.1,
) -> Action:
    """`qgf_jacobian` with `J` averaged around `a_t`:
    `g = mean_i J(a_t + std eps_i)^T grad Q(obs, a)`.

    An ablation of the paper's appendix; the noises are the same at every step. Arguments and
    return as for `qgf`, and

    - `key`: for the noises.
    - `samples`: how many.
    - `std`: of the noise on `a_t`.

    Costs `qgf`, and `samples` times the policy forward and backward.
    """
    a_t = as_floats("a_t", a_t)
    noises = as_factor("std", std, a_t.shape, a_t.dtype) * _noises(key, samples, a_t)
    g = action_gradient(critic, obs, one_step(policy, obs, a_t, t))
    carried_back = jax.vmap(lambda noise: _leap(policy, obs, a_t + noise, t)[1](g)[0])
    return jnp.mean(carried_back(noises), axis=0)


def robust(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    robust_critic: TimedCritic,
) -> Action:
    """The gradient of a critic that was trained at noisy actions:
    `g = grad_{a_t} Q_r(obs, a_t, t)`.

    The paper's RobustQ. Trained with `objectives.robust_critic` by squares, `Q_r` is
    `E[Q | a_t]`; by `objectives.linex` it is the soft value `log E[exp Q | a_t]`, whose gradient
    times `(1 - t) / t` is exactly the tilted direction. `critic` is not asked (it still ranks
    best-of-N). Arguments and return as for `qgf`, and

    - `robust_critic`: any callable `(obs, a_t, t) -> scalar`.

    Costs that critic forward and backward.
    """
    a_t = as_floats("a_t", a_t)
    t = as_number("t", t, a_t.dtype)
    return jax.grad(lambda a: timed_value(robust_critic, obs, a, t))(a_t)


def gated(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    values: Callable[[Obs, Action], Float[Array, " members"]],
    kappa: float | Array = 1.0,
    like: Guidance = qgf,
) -> Action:
    """An estimator, trusted as far as the critics agree: `g = exp(-kappa std_e Q_e(obs, a)) like`.

    The standard deviation is over the members of an ensemble at the Euler leap `a`, clipped if
    the critic is `bounded`: where the critic itself is asked. A gate has to
    know where the critic was asked, so it is an estimator and not a weight. Arguments and return
    as for `qgf`, and

    - `values`: every member's value; `nn.Ensemble` has it as a method.
    - `kappa`: per unit of Q; 0 is `like`.
    - `like`: the estimator that is gated.

    Costs `like`, and the forward pass of every member.
    """
    a_t = as_floats("a_t", a_t)
    std = spread(values_of(values, obs, asked_at(critic, one_step(policy, obs, a_t, t))))
    gate = jnp.exp(-as_number("kappa", kappa, std.dtype) * std)
    return gate.astype(a_t.dtype) * as_gradient("like", like(policy, critic, obs, a_t, t), a_t)


def zero(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """No guidance, `g = 0`: a control. Arguments and return as for `qgf`. Costs nothing."""
    return jnp.zeros_like(as_floats("a_t", a_t))


def random_direction(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    key: Key,
    like: Guidance = qgf,
) -> Action:
    """A random direction of the real gradient's norm: `g = ||like|| u`, a control.

    What a null result looks like: if it helps as much as `like`, the size of the push helps, not
    its direction. The direction is a hash of `(key, a_t, t)`: independent for every sample, since
    each starts from its own noise, and at every time, and repeatable. Arguments and return as for
    `qgf`, and

    - `key`: for the directions; one key is enough for a whole evaluation.
    - `like`: the estimator whose norm is matched.

    Costs what `like` costs.
    """
    check_key(key)
    a_t = as_floats("a_t", a_t)
    t = as_number("t", t, a_t.dtype)
    size = norm(as_gradient("like", like(policy, critic, obs, a_t, t), a_t))
    point = jnp.append(jnp.ravel(a_t), jnp.asarray(t, a_t.dtype)).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(point, jnp.uint32)
    factors = jax.random.bits(key, bits.shape, jnp.uint32) | 1  # odd, so that no bit is lost
    key = jax.random.fold_in(key, jnp.sum(bits * factors, dtype=jnp.uint32))
    u = jax.random.normal(key, a_t.shape, size.dtype)
    return (size / norm(u) * u).astype(a_t.dtype)

"""The estimators of the guidance gradient, all with the same five arguments.

Each answers: in which direction should the point `a_t` on the flow move, so that the action
it becomes has a higher value? Two choices tell them apart: where the critic is asked, and
whether the answer is carried back to `a_t` by the exact Jacobian `J` or as it is (`J = I`).

| the critic is asked at | `J = I` | exact `J` |
|---|---|---|
| the point itself | `ood` | (the same) |
| one Euler leap away | `qgf` | `qgf_jacobian` |
| `k` Euler steps away | `look_ahead` | `look_ahead(jacobian=True)` |
| the end of the ODE | `qgf_chain` | `bptt` |

`monte_carlo` asks at several points around the leap; `zero` and `random_direction` are controls.

Options are bound with `equinox.Partial`, which, unlike a lambda, does not recompile:
`eqx.Partial(guidance.bptt, steps=20)`.
"""

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._denoise import check_count, denoise, one_step
from ._fields import action_gradient, velocity
from ._fields import critic as value_of
from ._types import Action, Critic, Guidance, Key, Obs, Time, Velocity


def ood(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """The critic's gradient at the noisy point: `g = grad Q(obs, a_t)`.

    The critic has never seen noisy actions, so this asks it out of its distribution; for
    `t` near 0 the pull towards an action `a` promises the endpoint `a / t`, an overshoot.
    The gradient of QFQL. Arguments and return as for `qgf`. Costs the critic forward and
    backward.
    """
    return action_gradient(critic, obs, a_t)


def qgf(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """Q-Guided Flow: `g = grad Q(obs, a)` at `a = a_t + (1 - t) v(obs, a_t, t)`.

    The critic is asked at the clean action that one Euler leap promises, and its answer is
    used as it is (`J = I`). The default: cheap, in distribution, and the least sensitive to
    noise. Costs the policy forward (shared with the sampler's own call under jit) and the
    critic forward and backward.

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
    action, carry_back = jax.vjp(lambda a: one_step(policy, obs, a, t), a_t)
    return carry_back(action_gradient(critic, obs, action))[0]


def qgf_chain(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    steps: int = 10,
    solver: diffrax.AbstractSolver | None = None,
) -> Action:
    """`qgf` at the end of the ODE: `g = grad Q(obs, denoise(a_t))`, with `J = I`.

    Arguments and return as for `qgf`; `steps` and `solver` as for `denoise`, with the
    sampler's `steps` to follow its grid. Costs the remaining steps of the policy and the
    critic forward and backward.
    """
    action = denoise(policy, obs, a_t, t, steps=steps, solver=solver)
    return action_gradient(critic, obs, action)


def bptt(
    policy: Velocity,
    critic: Critic,
    obs: Obs,
    a_t: Action,
    t: Time,
    *,
    steps: int = 10,
    solver: diffrax.AbstractSolver | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Action:
    """The exact gradient of the outcome: `g = d Q(obs, denoise(a_t)) / d a_t`.

    Back-propagation through the whole remaining chain: dear, and very sensitive to noise.
    Arguments and return as for `qgf`; `steps`, `solver` and `adjoint` as for `denoise`, with
    the sampler's `steps` to follow its grid. Costs the remaining steps of the policy forward
    and backward and the critic forward and backward.
    """
    action, carry_back = jax.vjp(
        lambda a: denoise(policy, obs, a, t, steps=steps, solver=solver, adjoint=adjoint), a_t
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

    def ahead(a):
        def step(a, k):
            time = t + (1 - t) * k / steps
            return a + (1 - t) / steps * velocity(policy, obs, a, time), None

        return jax.lax.scan(step, a, jnp.arange(steps, dtype=a_t.dtype))[0]

    if not jacobian:
        return action_gradient(critic, obs, ahead(a_t))
    action, carry_back = jax.vjp(ahead, a_t)
    return carry_back(action_gradient(critic, obs, action))[0]


def monte_carlo(
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
    """The gradient of the soft value around the leap, in `a`:
    `g = grad_a log mean_i exp Q(obs, a + std eps_i)`, with `J = I`.

    The posterior of the clean action is taken as a Gaussian around the Euler leap `a`, of which
    the same `samples` noises are used at every step. At `std = 0` it is `qgf`. For a critic in
    units of its temperature, since it exponentiates Q: scale the critic, not only the weight.
    Loss-guided diffusion (Song et al., ICML 2023). Arguments and return as for `qgf`, and

    - `key`: for the noises.
    - `samples`: how many.
    - `std`: of the posterior, a number or one per dimension.

    Costs the policy forward and `samples` times the critic forward and backward.
    """
    samples = check_count("samples", samples, "it sets the number of noises")
    noises = jax.random.normal(key, (samples, *a_t.shape), a_t.dtype)

    def soft_value(action):
        values = jax.vmap(lambda eps: value_of(critic, obs, action + std * eps))(noises)
        return jax.nn.logsumexp(values) - jnp.log(jnp.asarray(samples, a_t.dtype))

    return jax.grad(soft_value)(one_step(policy, obs, a_t, t))


def zero(policy: Velocity, critic: Critic, obs: Obs, a_t: Action, t: Time) -> Action:
    """No guidance, `g = 0`: a control. Arguments and return as for `qgf`. Costs nothing."""
    return jnp.zeros_like(a_t)


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

    What a null result looks like: if it helps as much as `like`, it is the push that helps, and
    not where it points. The direction is drawn anew at every time. Arguments and return as for
    `qgf`, and

    - `key`: for the direction.
    - `like`: the estimator whose norm is matched.

    Costs what `like` costs.
    """
    norm = jnp.linalg.norm(jnp.ravel(like(policy, critic, obs, a_t, t)))
    bits = jax.lax.bitcast_convert_type(jnp.asarray(t, jnp.float32), jnp.uint32)
    u = jax.random.normal(jax.random.fold_in(key, bits), a_t.shape, a_t.dtype)
    return norm * u / jnp.linalg.norm(jnp.ravel(u))

"""The sampler: the guided field, a step of it, its flow by Euler or any solver, and actions."""

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._denoise import check_count
from ._fields import Bounded, given, velocity
from ._fields import critic as value_of
from ._types import Action, Critic, Guidance, Key, Obs, Policy, Time, Velocity, Weight
from .guidance import qgf
from .weights import weight_at


class Guided(eqx.Module):
    """The guided field, `v + w g`: a policy again, for whatever takes one.

    So it can be solved, scored with `likelihood.log_prob`, or guided again by another critic.
    Where the weight is zero it is the plain policy, bit for bit, even if the critic is NaN there;
    a weight that is the Python number 0 does not call the critic at all.

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
        return _action_shape(self.policy, self.critic)

    def given(self, obs: Obs) -> "Guided":
        """The same at one observation."""
        if _is_zero(self.weight):
            return Guided(given(self.policy, obs), self.critic, self.guidance, self.weight)
        policy, critic = given(self.policy, obs), given(self.critic, obs)
        return Guided(policy, critic, self.guidance, self.weight)

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The guided velocity at `(obs, a_t, t)`."""
        v = velocity(self.policy, obs, a_t, t)
        if _is_zero(self.weight):
            return v
        g = _as_gradient(self.guidance(self.policy, self.critic, obs, a_t, t), a_t)
        w = _as_weight(weight_at(self.weight, t, v, g), a_t)
        return v + w * jnp.where((w == 0) & ~jnp.isfinite(g), 0, g)


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
    return a_t + dt * Guided(policy, critic, guidance, weight)(obs, a_t, t)


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
    steps = check_count("steps", steps, "it sets the length of the scan")
    noise = as_noise(noise)
    field = Guided(policy, critic, guidance, weight).given(obs)
    times = np.arange(steps) / steps

    def step(a_t, t):
        return a_t + 1 / steps * field(obs, a_t, t), None

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
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    max_steps: int = 4096,
) -> Action:
    """The guided flow from noise to action, by any explicit Diffrax solver.

    With `diffrax.Euler()` it is `guided_flow`. An adaptive solver takes as many steps as its
    tolerance asks for, `diffrax.PIDController(rtol=1e-3, atol=1e-3)`; it wants a smooth field, so
    neither a weight that jumps nor a critic that is bounded by a hard clip.

    **Arguments:** `policy`, `critic`, `obs`, `noise`, `guidance`, `weight` as for
    `guided_flow`, and

    - `steps`: of the whole interval; with a step size controller, `1 / steps` is the first step.
    - `solver`: Heun's method by default, two calls of the field per step.
    - `stepsize_controller`: constant steps by default.
    - `max_steps`: with a step size controller, the most it may take.

    **Returns:** an action of the shape of `noise`; NaN if `max_steps` did not suffice.

    **Raises:** as `guided_flow`.
    """
    steps = check_count("steps", steps, "it sets the first step")
    noise = as_noise(noise)
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
) -> Float[Array, "count ..."]:
    """Draws `count` actions: noise, and the guided flow from it.

    Candidate `i` is drawn with `jax.random.fold_in(key, i)`, so that candidates nest as `count`
    grows, and the same key gives the same noises to two weights or estimators. If the critic is
    `bounded`, the actions are clipped to its bounds.

    Arguments and errors as for `sample`, and `count`, of actions.

    **Returns:** actions along a new first axis.
    """
    count = check_count("count", count, "it sets the number of candidates")
    draw = partial(_draw, policy, critic, obs, key, guidance, weight, steps)
    return jax.vmap(draw)(jnp.arange(count))


def best(critic: Critic, obs: Obs, actions: Float[Array, "count ..."]) -> Action:
    """The action of the highest value `Q(obs, action)`: the first of them, if several have it.

    A value that is NaN ranks last. Costs the critic once per action.
    """
    values = jax.vmap(partial(value_of, critic, obs))(actions)
    return actions[jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))]


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
) -> Action:
    """Draws one action: noise, the guided flow, and the best of `best_of` candidates.

    Unbatched: one action for one observation. For a batch use `jax.vmap`; and wrap the
    outermost call in `jax.jit`, since an eager call compiles its scan anew each time.

    If the critic is `bounded`, the actions are clipped to its bounds, before they are
    ranked. Candidates nest (see `candidates`): a larger `best_of` never lowers the value.
    `best_of=1` does not ask for the value.

    ```python
    act = jax.jit(lambda obs, key: qgf_eqx.sample(policy, critic, obs, key, weight=0.1))
    actions = jax.vmap(act)(batch_of_obs, jax.random.split(key, n))
    ```

    **Arguments:** `policy`, `critic`, `obs`, `guidance`, `weight`, `steps` as for
    `guided_flow`, and

    - `policy`: it must have an `action_shape`; `Flow(field, action_shape)` gives it one.
    - `key`: one key, from `jax.random.key`.
    - `best_of`: how many candidates; 1 is a single guided chain, and with `weight=0` this is
      best-of-N of the plain flow.

    **Returns:** an action of shape `policy.action_shape`.

    **Raises:** `TypeError` or `ValueError` that name the argument. A NaN in `obs` that
    the policy reads gives a NaN action, never a finite one; a candidate of value NaN ranks last.
    """
    best_of = check_count("best_of", best_of, "it sets the number of candidates")
    if best_of == 1:
        return _draw(policy, critic, obs, key, guidance, weight, steps, 0)
    options = {"guidance": guidance, "weight": weight, "steps": steps}
    return best(critic, obs, candidates(policy, critic, obs, key, count=best_of, **options))


def _draw(policy, critic, obs, key, guidance, weight, steps, i) -> Action:
    check_count("steps", steps, "it sets the length of the scan")
    check_key(key)
    noise = jax.random.normal(jax.random.fold_in(key, i), _action_shape(policy, critic))
    action = guided_flow(policy, critic, obs, noise, guidance=guidance, weight=weight, steps=steps)
    return critic.to_bounds(action) if isinstance(critic, Bounded) else action


def _is_zero(weight: Weight) -> bool:
    return isinstance(weight, int | float) and weight == 0


def as_noise(noise) -> Array:
    """An array of floats, or an error that names the argument."""
    try:
        noise = jnp.asarray(noise)
    except (TypeError, ValueError):
        raise TypeError(
            f"`noise` must be an array of floats, got {noise!r}: `jax.random.normal(key, shape)`."
        ) from None
    if not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(f"`noise` must be an array of floats, got {noise.dtype}.")
    return noise


def _as_gradient(g, a_t: Array) -> Array:
    if g is None or jnp.shape(g) != a_t.shape:
        got = "None" if g is None else f"an array of shape {jnp.shape(g)}"
        raise ValueError(
            f"`guidance` returned {got} for an `a_t` of shape {a_t.shape}; it must return a "
            "gradient of that shape."
        )
    return jnp.asarray(g).astype(a_t.dtype)


def _as_weight(weight, a_t: Array) -> Array:
    try:
        w = jnp.asarray(weight)
    except (TypeError, ValueError):
        raise TypeError(
            f"`weight` must be a number, an array or a function of (t, v, g), got {weight!r}."
        ) from None
    if jnp.issubdtype(w.dtype, jnp.complexfloating):
        raise ValueError(f"`weight` must be real numbers, got {w.dtype}.")
    try:
        fits = jnp.broadcast_shapes(w.shape, a_t.shape) == a_t.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"`weight` has shape {w.shape}, which does not broadcast to the action's shape "
            f"{a_t.shape}. Use a number, or one weight per action dimension; for one weight "
            "per row of a batch, `jax.vmap` over it."
        )
    return jnp.broadcast_to(w, a_t.shape).astype(a_t.dtype) if w.ndim else w.astype(a_t.dtype)


def _action_shape(policy, critic) -> tuple[int, ...]:
    shape = getattr(policy, "action_shape", None)
    if shape is None:
        swapped = (
            " `critic` has one: are the first two arguments swapped?"
            if hasattr(critic, "action_shape")
            else " The order is `sample(policy, critic, obs, key)`."
        )
        raise TypeError(
            "`policy` has no `action_shape`, so `sample` cannot draw noise for it. Wrap it: "
            f"`qgf_eqx.Flow(policy, action_shape=(...))`.{swapped}"
        )
    return tuple(shape)


def check_key(key) -> None:
    """Refuses what is not one key."""
    if isinstance(key, jax.Array | np.ndarray):
        dtype = key.dtype
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            extra = key.shape
        elif dtype == np.uint32 and key.ndim > 0:  # a legacy key, as of `jax.random.PRNGKey`
            extra = key.shape[:-1]
        else:
            extra = None
        if extra == ():
            return
        if extra is not None:
            raise ValueError(
                f"`key` is a batch of keys of shape {extra}; `sample` takes one key and draws "
                "one action. Wrap the call in `jax.vmap`."
            )
    raise TypeError(f"`key` must be one key, as made by `jax.random.key(0)`, got {key!r}.")

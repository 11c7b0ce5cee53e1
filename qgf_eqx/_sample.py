"""The sampler: one guided step, the guided flow, and actions drawn from it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._denoise import check_count
from ._fields import Bounded, velocity
from ._fields import critic as value_of
from ._types import Action, Critic, Guidance, Key, Obs, Policy, Time, Velocity, Weight
from .guidance import qgf


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

    Where the weight is zero the step is the plain flow's, bit for bit, even if the critic is
    NaN there; a weight that is the Python number 0 does not call the critic at all.

    **Arguments:** `policy`, `critic`, `obs`, `a_t`, `t` as for `guidance.qgf`, and

    - `dt`: the length of the step.
    - `guidance`: the estimator of `g`, one of `qgf_eqx.guidance` or your own.
    - `weight`: the guidance weight `w` (1 / beta in the paper): a number, an array that
      broadcasts to the action, or a function `(t, v, g) -> w`. In units of action per Q:
      useful values shrink as the critic's scale grows.

    **Returns:** the point on the flow at time `t + dt`.

    **Raises:** `ValueError` if the weight, the policy's or the critic's answer has a wrong
    shape.

    Source: arXiv 2606.11087, Algorithm 1.
    """
    v = velocity(policy, obs, a_t, t)
    if isinstance(weight, int | float) and weight == 0:
        return a_t + dt * v
    g = _as_gradient(guidance(policy, critic, obs, a_t, t), a_t)
    w = _as_weight(weight(t, v, g) if callable(weight) else weight, a_t)
    g = jnp.where((w == 0) & ~jnp.isfinite(g), 0, g)
    return a_t + dt * (v + w * g)


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
    noise = jnp.asarray(noise)
    if not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(f"`noise` must be an array of floats, got {noise.dtype}.")
    options = {"guidance": guidance, "weight": weight}
    times = np.arange(steps) / steps

    def step(a_t, t):
        return guided_step(policy, critic, obs, a_t, t, 1 / steps, **options), None

    if unroll:
        for t in times.tolist():
            noise, _ = step(noise, t)
        return noise
    return jax.lax.scan(step, noise, jnp.asarray(times, noise.dtype))[0]


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
    ranked. Candidate `i` is drawn with `jax.random.fold_in(key, i)`, so that candidates nest:
    a larger `best_of` never lowers the value. `best_of=1` does not ask for the value.

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
    steps = check_count("steps", steps, "it sets the length of the scan")
    shape = _action_shape(policy, critic)
    _check_key(key)

    def candidate(i):
        noise = jax.random.normal(jax.random.fold_in(key, i), shape)
        action = guided_flow(
            policy, critic, obs, noise, guidance=guidance, weight=weight, steps=steps
        )
        return critic.to_bounds(action) if isinstance(critic, Bounded) else action

    if best_of == 1:
        return candidate(0)
    actions = jax.vmap(candidate)(jnp.arange(best_of))
    values = jax.vmap(partial(value_of, critic, obs))(actions)
    return actions[jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))]


def _as_gradient(g, a_t: Array) -> Array:
    if g is None or jnp.shape(g) != a_t.shape:
        got = "None" if g is None else f"an array of shape {jnp.shape(g)}"
        raise ValueError(
            f"`guidance` returned {got} for an `a_t` of shape {a_t.shape}; it must return a "
            "gradient of that shape."
        )
    return jnp.asarray(g).astype(a_t.dtype)


def _as_weight(weight, a_t: Array) -> Array:
    w = jnp.asarray(weight)
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
            else ""
        )
        raise TypeError(
            "`policy` has no `action_shape`, so `sample` cannot draw noise for it. Wrap it: "
            f"`qgf_eqx.Flow(policy, action_shape=(...))`.{swapped}"
        )
    return tuple(shape)


def _check_key(key) -> None:
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

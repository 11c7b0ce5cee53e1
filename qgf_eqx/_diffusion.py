"""A diffusion policy as a flow: its noise levels put in order on the straight path."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ._checks import as_shape
from ._fields import given
from ._types import Action, Obs, Time

PREDICTS = "noise", "action", "v"


class Diffusion(eqx.Module):
    """The velocity of a variance-preserving diffusion model, for `sample` and all of guidance.

    A diffusion adds noise as `x_k = sqrt(abar_k) action + sqrt(1 - abar_k) eps`; a flow goes from
    noise to action by `a_t = (1 - t) eps + t action`. The two are the same points, scaled:
    `a_t = c x_k` with `c = sqrt(t^2 + (1-t)^2)`, where `t / (1 - t)` is the signal-to-noise ratio
    `sqrt(abar_k / (1 - abar_k))`. The model's prediction at `x_k` gives the clean action and
    the noise; the velocity is their difference, `E[action - eps | a_t]`.

    ```python
    betas = jnp.linspace(1e-4, 0.02, 1000)
    policy = Diffusion(model, jnp.cumprod(1 - betas), action_shape=(16, 7), clip=1.0)
    ```

    The flow is the model's probability-flow ODE (DDIM with eta 0), in other steps. It costs the
    model once a step.
    """

    model: Callable[[Obs, Action, Any], Action]
    alphas_bar: Float[Array, " steps"]
    action_shape: tuple[int, ...] = eqx.field(static=True)
    predicts: str = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)
    whole: bool = eqx.field(static=True)

    def __init__(
        self,
        model: Callable[[Obs, Action, Any], Action],
        alphas_bar: ArrayLike,
        action_shape: tuple[int, ...],
        *,
        predicts: Literal["noise", "action", "v"] = "noise",
        clip: float | None = None,
        whole: bool = True,
    ):
        """**Arguments:**

        - `model`: a callable `(obs, x, k) -> prediction`; step `k` counts from 0, the cleanest.
        - `alphas_bar`: the signal share at each step, decreasing; `alphas_cumprod` of a Diffusers
          scheduler.
        - `action_shape`: of an action.
        - `predicts`: `noise` (epsilon), `action` (the sample), or `v`,
          `sqrt(abar) eps - sqrt(1 - abar) action`.
        - `clip`: the predicted action is clipped to plus and minus this; 1 is what Diffusion
          Policy's scheduler does. With `noise` it matters when there is little signal, which
          the model's error is divided by.
        - `whole`: the model takes whole steps, so `k` is rounded to the nearest; else `k`
          may be fractional.

        **Raises:** `ValueError` if `alphas_bar` does not fall within [0, 1), or ends at 0 where
        the noise is predicted; and if `predicts` is not one of these.
        """
        shares = np.asarray(alphas_bar, float)
        falls = shares.ndim == 1 and len(shares) > 1 and (np.diff(shares) < 0).all()
        if not (falls and shares[-1] >= 0 and shares[0] < 1):
            raise ValueError(
                "`alphas_bar` must be one number for each step, decreasing, in [0, 1): the "
                "cumulative product of 1 - beta."
            )
        if predicts not in PREDICTS:
            raise ValueError(f"`predicts` must be one of {', '.join(PREDICTS)}, got {predicts!r}.")
        if predicts == "noise" and shares[-1] == 0:
            raise ValueError(
                "`alphas_bar` ends at 0, where a predicted noise says nothing about the action: "
                "leave the last step out."
            )
        self.model, self.predicts, self.clip, self.whole = model, predicts, clip, whole
        self.alphas_bar = jnp.asarray(shares, jnp.result_type(float))
        self.action_shape = as_shape(action_shape)

    def given(self, obs: Obs) -> "Diffusion":
        """The same at one observation."""
        return eqx.tree_at(lambda d: d.model, self, given(self.model, obs))

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The velocity at `(obs, a_t, t)`."""
        t = jnp.asarray(t, a_t.dtype)
        shares = self.alphas_bar.astype(a_t.dtype)
        ratio = jnp.sqrt(shares), jnp.sqrt(1 - shares)
        times = ratio[0] / (ratio[0] + ratio[1])
        steps = jnp.arange(len(shares), dtype=a_t.dtype)
        k = jnp.interp(t, times[::-1], steps[::-1])
        k = jnp.round(k).astype(int) if self.whole else k
        x = a_t / _size(t)
        # No step is noisier than the last, nor cleaner than the first.
        nearest = jnp.clip(t, times[-1], times[0])
        signal, noise = nearest / _size(nearest), (1 - nearest) / _size(nearest)
        found = self.model(obs, x, k)
        if self.predicts == "noise":
            action = (x - noise * found) / signal
        else:
            action = found if self.predicts == "action" else signal * x - noise * found
        if self.clip is not None:
            action = jnp.clip(action, -self.clip, self.clip)
        if self.predicts == "noise" and self.clip is None:
            return action - found
        return action - (x - signal * action) / noise


def _size(t: Array) -> Array:
    return jnp.sqrt(t**2 + (1 - t) ** 2)

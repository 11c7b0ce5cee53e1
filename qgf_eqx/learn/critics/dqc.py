"""Decoupled Q-chunking: a critic of long chunks, distilled to one of the chunks that are acted."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Scalar

from ... import objectives
from ..._fields import bounded
from ..._types import Key
from ...data import Chunk
from ...nn import CriticMLP, Ensemble, ValueMLP
from .._learner import Judges, Learner, Networks, Spec, copied
from .._settings import setting

_REDUCED = {"min": jnp.min, "mean": jnp.mean}


@dataclass(frozen=True)
class DQC(Learner):
    """The discounted chance of success, `E[gamma^T]` at the step T in which the task ends, as
    logits. Three networks, of which the first sees `backup` steps at once:

    - `Q_h(s, a_1 .. a_h)` to `gamma^j`, if the task ends at step `j` of the chunk, its end
      included, or else to `gamma^h V(s_h)`, by binary cross entropy;
    - `Q(s, a_1 .. a_k)`, of the `k` actions that a policy plays, to `Q_h`, by the expectile
      `distil` over the actions that follow;
    - `V(s)` to the average of Q, by the quantile `quantile` over the data's actions.

    Rewards are not used, but for where the task ends. Guidance gets the logit of Q, because the
    gradient of the chance itself vanishes near 0 and 1.

    Source: Li, Park and Levine, *Decoupled Q-Chunking*, 2025. Its authors' code differs: there each
    short member is fitted to its own long one, which is no average, and chances are reduced where
    we reduce logits.
    """

    backup: int = 25
    """The steps of a long chunk; at least the policy's."""
    critics: int = setting(2, most=1000)
    """Members of both ensembles."""
    reduce: str = setting("min", options=("min", "mean"))
    """What their members' logits become: the minimum, or the mean."""
    quantile: float = setting(0.93, below=1)
    """Of the value, in (0, 1)."""
    distil: float = setting(0.8, below=1)
    """The expectile of the distilled critic, in (0, 1)."""
    ema_rate: float = setting(0.005, most=1)
    """How fast the averages follow."""

    needs_action: ClassVar[bool] = False

    def init(self, spec: Spec, key: Key) -> Networks:
        """The long critic, the distilled one and the value; and the averages of both critics."""
        horizon, size = spec.action_shape
        if self.backup < horizon:
            raise ValueError(
                f"`backup` must be at least the horizon, {horizon}, got {self.backup}."
            )
        keys = jax.random.split(key, 3)

        def ensemble(steps: int, key: Key) -> Ensemble:
            make = partial(CriticMLP, action_shape=(steps, size), **self.size)
            options = {"reduce": _REDUCED[self.reduce], "key": key}
            return Ensemble(lambda k: spec.net(make, k), self.critics, **options)

        long, short = ensemble(self.backup, keys[0]), ensemble(horizon, keys[1])
        value = spec.net(partial(ValueMLP, **self.size), keys[2])
        return Networks((long, short, value), (copied(long), copied(short)))

    def losses(self, nets: Networks, chunk: Chunk, next_action: Any) -> dict[str, Any]:
        """`critic_loss`, `distil_loss` and `value_loss`, means over the members."""
        (long, short, value), (old_long, old_short) = nets.trained, nets.kept
        if chunk.success is None:
            raise ValueError("`dqc` needs chunks that say when the task ended, `Chunk.success`.")
        played = chunk.action[: short.members[0].action_shape[0]]
        further = jax.nn.sigmoid(value(chunk.next_obs))
        bootstrap = jnp.where(chunk.success > 0, 0, chunk.discount * further)
        target = stop_gradient(jnp.clip(chunk.success + bootstrap, 0, 1))
        of_long = stop_gradient(jax.nn.sigmoid(old_long(chunk.obs, chunk.action)))
        of_short = stop_gradient(old_short(chunk.obs, played))
        shorts = short.values(chunk.obs, played)
        above = stop_gradient(jax.nn.sigmoid(shorts)) <= of_long
        asymmetric = jnp.where(above, self.distil, 1 - self.distil)
        gap = of_short - value(chunk.obs)
        return {
            "critic_loss": jnp.mean(_cross_entropy(long.values(chunk.obs, chunk.action), target)),
            "distil_loss": jnp.mean(asymmetric * _cross_entropy(shorts, of_long)),
            "value_loss": jnp.maximum(self.quantile * gap, (self.quantile - 1) * gap),
        }

    def follow(self, nets: Networks) -> Networks:
        """The averages, a step closer to both critics."""
        pairs = zip(nets.kept, nets.trained, strict=False)
        return nets._replace(kept=tuple(objectives.polyak(a, b, self.ema_rate) for a, b in pairs))

    def judges(self, nets: Networks, spec: Spec) -> Judges:
        """The logit of the distilled critic's average, and of the value."""
        (_, short, value), (_, old) = nets.trained, nets.kept
        return Judges(bounded(old, *spec.bounds), old.values, value, short.values)


def _cross_entropy(logits: Array, target: Scalar) -> Array:
    """Binary, of a chance; least where `sigmoid(logits) = target`."""
    return jax.nn.softplus(logits) - target * logits

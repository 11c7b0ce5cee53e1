"""Q-score matching, with behaviour cloning: a diffusion policy whose score is the critic's."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..._fields import action_gradient
from ..._types import Key
from ...data import Chunk
from .._ddpm import diffused, eps_at
from .._learner import Judges, Networks
from .dac import DAC


@dataclass(frozen=True)
class QSM(DAC):
    """`|| -kappa grad Q(s, a_k) - eps_th ||^2 + alpha || eps - eps_th ||^2`.

    Its minimiser is `(alpha E[eps | a_k] - kappa grad Q) / (1 + alpha)`. Acts as `DAC`.

    Source: Psenka et al., *Learning a Diffusion Model Policy from Rewards via Q-Score Matching*,
    2024, with the behaviour cloning of arXiv 2606.11087.
    """

    alpha: float = 10.0
    """Of behaviour cloning."""
    kappa: float = 0.1
    """The inverse temperature, per unit of Q."""

    label: ClassVar[str] = "QSM"
    colour: ClassVar[str] = "#a65628"
    strength: ClassVar[str] = "kappa"

    def losses(self, nets: Networks, chunk: Chunk, key: Key, judges: Judges) -> dict[str, Any]:
        """`score_loss`, and `eps_loss`, times alpha."""
        a_k, k, eps = diffused(chunk.action, key)
        found = eps_at(nets.trained, chunk.obs, a_k, k)
        g = jax.lax.stop_gradient(action_gradient(judges.critic, chunk.obs, a_k))
        return {
            "score_loss": jnp.sum(jnp.square(-self.kappa * g - found)),
            "eps_loss": self.alpha * jnp.sum(jnp.square(eps - found)),
        }

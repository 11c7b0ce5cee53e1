"""An actor of one's own: the mean of the data's actions. All that a new method needs."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from qgf_eqx.learn import Learner, Networks


@dataclass(frozen=True)
class Mean(Learner):
    """The mean, trained by gradient descent."""

    def init(self, spec: Any, key: Any) -> Networks:
        """Zero, to begin with."""
        return Networks(jnp.zeros(spec.action_shape))

    def losses(self, nets: Networks, chunk: Any, key: Any, judges: Any) -> dict[str, Any]:
        """The square of what is missing."""
        return {"mean_loss": jnp.mean(jnp.square(nets.trained - chunk.action))}

    def act(self, nets: Networks, judges: Any, obs: Any, key: Any) -> Any:
        """Always the same."""
        return nets.trained

    def optimizer(self) -> optax.GradientTransformation:
        """Its own."""
        return optax.sgd(1.0)

"""The old name of `qgf_eqx.evaluate.names`, for one version."""

from collections.abc import Callable

import jax.numpy as jnp

from ._renamed import moved
from ._types import Guidance
from .evaluate.names import *  # noqa: F403
from .evaluate.sampler import Sampler
from .guidance import qgf
from .weights import LinearDecay

moved(__name__, "evaluate.names")


def Method(
    name: str,
    estimator: Guidance = qgf,
    weight: float | LinearDecay = 0.0,
    best_of: int = 1,
    steps: int = 10,
    reduce: Callable = jnp.min,
) -> Sampler:
    """A `Sampler`, with the arguments in their old order."""
    return Sampler(estimator, weight, best_of, steps, reduce, name)

"""The old name of `qgf_eqx.evaluate.names`, for one version."""

import warnings
from collections.abc import Callable

import jax.numpy as jnp

from ._types import Guidance
from .evaluate.names import *  # noqa: F403
from .evaluate.sampler import Sampler
from .guidance import qgf
from .weights import LinearDecay

warnings.warn(
    "`qgf_eqx.names` is now `qgf_eqx.evaluate.names`, and `Method` is `qgf_eqx.evaluate.Sampler`; "
    "the old names go with the next version.",
    DeprecationWarning,
    stacklevel=2,
)


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

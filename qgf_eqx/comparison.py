"""The old name of `qgf_eqx.evaluate.comparison`, for one version."""

import warnings

from .evaluate.comparison import *  # noqa: F403
from .evaluate.comparison import tune_weight as choose_weight  # noqa: F401

warnings.warn(
    "`qgf_eqx.comparison` is now `qgf_eqx.evaluate.comparison`; the old name goes with the next "
    "version.",
    DeprecationWarning,
    stacklevel=2,
)

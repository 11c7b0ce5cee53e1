"""The old name of `qgf_eqx.evaluate.statistics`, for one version."""

import warnings

from .evaluate.statistics import *  # noqa: F403

warnings.warn(
    "`qgf_eqx.statistics` is now `qgf_eqx.evaluate.statistics`; the old name goes with the next "
    "version.",
    DeprecationWarning,
    stacklevel=2,
)

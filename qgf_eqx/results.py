"""The old name of `qgf_eqx.evaluate.results`, for one version."""

import warnings

from .evaluate.results import *  # noqa: F403

warnings.warn(
    "`qgf_eqx.results` is now `qgf_eqx.evaluate.results`; the old name goes with the next version.",
    DeprecationWarning,
    stacklevel=2,
)

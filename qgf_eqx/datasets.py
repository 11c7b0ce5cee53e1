"""The old name of `qgf_eqx.data`, for one version."""

import warnings

from .data import *  # noqa: F403
from .data.ogbench import *  # noqa: F403

warnings.warn(
    "`qgf_eqx.datasets` is now `qgf_eqx.data`; the old name goes with the next version.",
    DeprecationWarning,
    stacklevel=2,
)

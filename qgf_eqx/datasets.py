"""The old name of `qgf_eqx.data`, for one version."""

from ._renamed import moved
from .data import *  # noqa: F403
from .data.ogbench import *  # noqa: F403

moved(__name__, "data")

"""The old name of `qgf_eqx.evaluate.statistics`, for one version."""

from ._renamed import moved
from .evaluate.statistics import *  # noqa: F403

moved(__name__, "evaluate.statistics")

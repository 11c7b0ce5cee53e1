"""The old name of `qgf_eqx.evaluate.results`, for one version."""

from ._renamed import moved
from .evaluate.results import *  # noqa: F403

moved(__name__, "evaluate.results")

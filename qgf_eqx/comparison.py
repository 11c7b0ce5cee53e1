"""The old name of `qgf_eqx.evaluate.comparison`, for one version."""

from ._renamed import moved
from .evaluate.comparison import *  # noqa: F403
from .evaluate.comparison import tune_weight as choose_weight  # noqa: F401

moved(__name__, "evaluate.comparison")

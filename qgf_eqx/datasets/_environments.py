"""OGBench environments: made quietly, and seeded in every source of randomness they have."""

import os
import warnings

import gymnasium
import numpy as np

from ._error import DatasetError


def make_env(env_id: str, **options) -> gymnasium.Env:
    """`gymnasium.make(env_id, **options)` for an OGBench environment, without its warnings.

    Where no display is configured, rendering is left off, unless `MUJOCO_GL` says otherwise.
    """
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "disabled")
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ogbench  # noqa: F401 (registers the environments)

        return gymnasium.make(env_id, **options)


def check_env(env_id: str) -> None:
    """**Raises:** `DatasetError` if OGBench has no environment of that name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ogbench  # noqa: F401 (registers the environments)

        try:
            gymnasium.spec(env_id)
        except gymnasium.error.Error:
            raise DatasetError(f"OGBench has no environment `{env_id}`.") from None


def seed_everything(env: gymnasium.Env, *entropy: int) -> int:
    """Seeds NumPy's global generator and the action space; returns a seed for `env.reset`.

    OGBench's mazes and oracles draw from the global generator, its other environments from
    their own.
    """
    words = np.random.SeedSequence(entropy).generate_state(3)
    np.random.seed(words[0])  # noqa: NPY002
    env.action_space.seed(int(words[1]))
    return int(words[2])

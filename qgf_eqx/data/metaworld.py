"""Meta-World's 50 tasks of a robot arm: environments, and data by its own scripted experts.

Needs `pip install 'qgf_eqx[metaworld]'`, in an environment of its own: Meta-World 3.1.1 needs
MuJoCo 3.3.0. Source: McLean et al., 2025, https://arxiv.org/abs/2505.11289.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np

try:
    import gymnasium
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.data.metaworld needs Gymnasium ({error}): pip install 'qgf_eqx[metaworld]'"
    ) from error

from ._collecting import Recorded, Source
from ._environment import seed_everything
from ._error import DatasetError
from .arrays import from_episodes

STEPS = 200
"""Of an episode, at most: the experts need 40 to 110 without noise."""
NOISE = 1.0
"""The largest standard deviation of an expert's noise; every episode draws its own, from 0."""


def _check(name: str) -> None:
    """**Raises:** `DatasetError` if there is no such task."""
    experts = _metaworld()[1]
    if name not in experts:
        known = ", ".join(sorted(experts))
        raise DatasetError(f"Meta-World has no task `{name}`. It has {known}.")


def _metaworld() -> tuple[dict[str, Any], dict[str, Any]]:
    """Its environments and its experts, by name."""
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        raise ImportError(
            f"Meta-World's tasks need Meta-World ({error}): pip install 'qgf_eqx[metaworld]'"
        ) from error
    return ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE, ENV_POLICY_MAP


class _Seeded(gymnasium.Wrapper):
    """A start state that is a function of `reset(seed)`, which Meta-World ignores; an episode that
    ends with success; a reward of -1 in every step before."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        if seed is not None:
            self.get_wrapper_attr("seed")(seed)
        return self.env.reset()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, _, _, truncated, info = self.env.step(action)
        success = bool(info["success"])
        return obs, success - 1.0, success, truncated, info


def make_env(name: str, *, render_mode: str | None = None, **options: Any) -> gymnasium.Env:
    """The environment of a task, say `push-v3`: 39 numbers, with the goal, to 4 in [-1, 1].

    An episode ends with success, or after 200 steps; the reward is `success - 1`. The start and
    the goal are drawn anew by every `reset`, from its seed.

    **Raises:** `DatasetError` if there is no such task.
    """
    _check(name)
    env = _metaworld()[0][f"{name}-goal-observable"](seed=0, render_mode=render_mode, **options)
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    return _Seeded(gymnasium.wrappers.TimeLimit(env, STEPS))


def task(name: str) -> dict[str, Any]:
    """The parts of the task `metaworld:push-v3`, for `qgf_eqx.evaluate.Task`.

    **Raises:** `DatasetError` if there is no such task, `ImportError` without Meta-World.
    """
    _check(name)
    dataset = f"metaworld-{name}"
    return {"name": dataset, "make_env": partial(make_env, name), "data": f"{dataset}.npz"}


def source(name: str) -> Source:
    """Episodes of a task by its noisy expert, for `qgf_eqx.data.collect("metaworld:push-v3", ...)`.

    **Raises:** `DatasetError` if there is no such task.
    """
    _check(name)
    packages = ("metaworld", "mujoco", "gymnasium", "numpy")
    return Source(f"metaworld-{name}", STEPS + 1, partial(_maker, name), packages)


@contextmanager
def _maker(name: str) -> Iterator[Callable[[int, int], Recorded]]:
    with closing(make_env(name)) as env:
        yield partial(_play, env, _metaworld()[1][name]())


def _expert_action(expert: Any, obs: np.ndarray) -> np.ndarray:
    """An expert's action, without its warning that it may be clipped to [-1, 1]: it always is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return expert.get_action(obs)


def _play(env: gymnasium.Env, expert: Any, seed: int, index: int) -> Recorded:
    # Further entropy than that of an evaluation's episodes, so that no start state is in both.
    obs, _ = env.reset(seed=seed_everything(env, seed, index, 1))
    rng = np.random.default_rng([seed, index])
    noise, done, terminated = rng.uniform(0, NOISE), False, False
    seen, actions, rewards = [obs], [], []
    while not done:
        action = _expert_action(expert, obs) + rng.normal(0, noise, 4)
        actions.append(np.clip(action, -1, 1).astype(np.float32))
        obs, reward, terminated, truncated, _ = env.step(actions[-1])
        done = terminated or truncated
        seen.append(obs)
        rewards.append(reward)
    episode = {"obs": np.array(seen, np.float32), "actions": np.array(actions)}
    episode |= {"rewards": np.array(rewards, np.float32), "terminated": terminated}
    return from_episodes([episode])._asdict()

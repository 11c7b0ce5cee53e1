"""A run's networks and data, for the verbs that step no environment."""

from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import data
from .._fields import bounded
from ..evaluate import target_critic, task_of
from ..evaluate._rollout import action_bounds
from ..evaluate.task import dataset_of
from ..train import load_nets, load_units
from ._options import Flow, Recorded


def dataset_for(env: str, recorded: Recorded, **options: Any) -> Any:
    """The data of a task: those that are named, its own, or OGBench's in a folder."""
    cache_dir = recorded.cache_dir
    if recorded.data is not None:
        return data.open_dataset(recorded.data, cache_dir=cache_dir)[0]
    if ":" in env:
        return dataset_of(task_of(env), recorded.data_dir, cache_dir=cache_dir)
    return data.load(env, recorded.data_dir, cache_dir=cache_dir, **options)


def open_offline(run: Path, count: int, flow: Flow, recorded: Recorded):
    """Policy, bounded critic, every member's value, and observations of the validation data, or of
    the data that are named."""
    (nets, config), units = load_nets(run), load_units(run)
    held_out = dataset_for(config.env, recorded, split="val")
    rows = np.linspace(0, len(held_out.rewards) - 1, count).astype(int)
    obs = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), held_out.obs)
    edges = _edges(config.env, nets.policy.action_shape[-1])
    low, high = (units.from_action(jnp.asarray(edge)) for edge in edges)
    critic = bounded(target_critic(nets, flow.reduction), low, high)
    return nets.policy, critic, nets.target.values, obs


def _edges(env: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of a task's actions: OGBench's are known, others are asked of an environment."""
    if ":" not in env:
        return -np.ones(size, np.float32), np.ones(size, np.float32)
    with closing(task_of(env).make_env()) as made:
        return action_bounds(made.action_space)

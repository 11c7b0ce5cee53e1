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
from ._options import DataFiles, Drawing


def dataset_for(env: str, recorded: DataFiles, split: str = "train") -> Any:
    """The data of a task: those that are named, or its own."""
    options = {"cache_dir": recorded.cache_dir}
    if recorded.data is not None:
        return data.open_dataset(recorded.data, **options)[0]
    return dataset_of(task_of(env), recorded.data_dir, split=split, **options)


def open_offline(run: Path, count: int, flow: Drawing, recorded: DataFiles):
    """Policy, bounded critic, every member's value, and observations of the validation data, or of
    the data that are named."""
    (nets, config), units = load_nets(run), load_units(run)
    held_out = dataset_for(config.env, recorded, split="val")
    rows = np.linspace(0, len(held_out.rewards) - 1, count).astype(int)
    obs = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), held_out.obs)
    with closing(task_of(config.env).make_env()) as env:
        edges = action_bounds(env.action_space)
    low, high = (units.from_action(jnp.asarray(edge)) for edge in edges)
    critic = bounded(target_critic(nets, flow.reduction), low, high)
    return nets.policy, critic, nets.target.values, obs

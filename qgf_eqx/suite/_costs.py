"""What an action costs, by the networks that a suite has trained."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from .. import flops
from .._fields import bounded
from ..evaluate._actors import of_run
from ..evaluate.names import method
from ._cells import PlayCell, is_done


def costs_of(cells: Sequence[Any]) -> dict[str, float]:
    """MFLOP of an action by method: the mean over the entries whose runs and outcomes are there."""
    found: dict[str, list[float]] = {}
    runs: dict[Any, Any] = {}
    counted: dict[Any, int] = {}
    for cell in cells:
        if isinstance(cell, PlayCell) and is_done(cell) and cell.trainings[0].runs[0].exists():
            folder = cell.trainings[0].runs[0]
            if folder not in runs:
                runs[folder] = _load(folder)
            run, config = runs[folder], runs[folder].config
            networks = run.saved.spec, config.critic, str(config.actors), cell.method
            if networks not in counted:  # those of many tasks have the same sizes
                counted[networks] = per_action(run, cell.method)
            found.setdefault(cell.method, []).append(counted[networks] / 1e6)
    return {name: float(np.mean(costs)) for name, costs in found.items()}


def _load(folder: Any) -> Any:
    from ..learn import load_run

    return load_run(folder)


def per_action(run: Any, name: str) -> int:
    """FLOP of an action of a method. They do not depend on the weight, nor on the observation.

    **Arguments:** a `learn.Trained`, and the method's name.
    """
    sampler = method(name, weight=1.0, actors=run.config.actors)
    if sampler.choices:
        sampler = replace(sampler, weight=sampler.choices[0])
    policy, sampler = of_run(run, sampler)
    act = partial(sampler, policy, bounded(sampler.critic(run.values)))
    return flops.count(act, run.example_obs(), jax.random.key(0))

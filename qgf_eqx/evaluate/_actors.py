"""Actors that are trained beside a run's flow, as methods that are compared with guidance."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .._fields import asked_at
from .._sample import best
from .._types import Action, Critic, Guidance, Key, Obs
from .sampler import Sampler


def own_action(
    policy: Any,
    critic: Critic,
    obs: Obs,
    key: Key,
    *,
    guidance: Guidance,
    weight: Any,
    steps: int,
    best_of: int,
) -> Action:
    """An action that a trained actor draws itself, or the best of several, by the critic; clipped
    to the critic's bounds. Takes `sample`'s place where `policy` is a `learn.Actor`."""
    takes_weight = "weight" in inspect.signature(policy.learner.act).parameters
    options = {"weight": weight} if takes_weight and weight != 0 else {}

    def one(i):
        return asked_at(critic, policy.act(obs, jax.random.fold_in(key, i), **options))

    if best_of == 1:
        return one(0)
    return best(critic, obs, jax.vmap(one)(jnp.arange(best_of)))


def of_run(trained: Any, sampler: Sampler) -> tuple[Any, Sampler]:
    """What a sampler draws from, of a run: its flow, or the actor that is named; and the sampler,
    whose estimator is the actor's if that guides.

    **Arguments:** a `learn.Trained`, and the sampler.

    **Raises:** `RunError` if the run has no such actor.
    """
    if not sampler.actor:
        return trained.policy, sampler
    from ..learn import Guides

    actors = trained.config.actors
    name = sampler.actor
    if name not in actors and f"{name}-{sampler.weight:g}" in actors:
        name = f"{name}-{sampler.weight:g}"
    if isinstance(actors.get(name), Guides):
        estimator = trained.estimator_of(name)
        return trained.policy, dataclasses.replace(sampler, estimator=estimator)
    if sampler.draw is own_action:
        return trained.actor(name), sampler
    return trained.policy_of(name), sampler


def strengths(name: str, actors: Mapping[str, Any]) -> tuple[float, ...]:
    """The strengths with which a run has trained a method, of actors such as `fql-30`."""
    found = []
    for actor in actors:
        base, _, number = actor.rpartition("-")
        try:
            found += [float(number)] if base == name else []
        except ValueError:
            continue
    return tuple(sorted(found))

"""One update of a critic and any number of actors, which knows none of their methods.

A run is one critic and its actors: all see the same batches, and every actor is trained against
the same critic, as it was before the update. The critic does not depend on the actors, unless its
losses ask one of them for actions.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Key
from ..data import Chunk
from ._learner import ActorLearner, Acts, CriticLearner, Judges, Networks, Spec


@dataclass(frozen=True)
class Team:
    """What is trained together."""

    critic: CriticLearner
    actors: Mapping[str, ActorLearner]
    """By name."""
    next_actor: str | None = None
    """The actor whose actions the critic's losses ask for, if they need some."""

    def __post_init__(self):
        acting = [name for name, actor in self.actors.items() if isinstance(actor, Acts)]
        if self.critic.needs_action and self.next_actor not in acting:
            raise ValueError(
                "`next_actor` must name the actor whose actions the critic is trained on: one of "
                f"{', '.join(acting) or 'none, of these actors'}; got {self.next_actor}."
            )
        if "critic" in self.actors:
            raise ValueError("`actors` must not have the name `critic`: it is the critic's.")

    @property
    def learners(self) -> dict[str, Any]:
        """All of them; the critic is `critic`."""
        return {"critic": self.critic, **self.actors}


class TeamState(NamedTuple):
    """All that an update changes."""

    nets: dict[str, Networks]
    optimizers: dict[str, Any]
    step: jax.Array


def init_team(team: Team, spec: Spec, key: Key) -> TeamState:
    """The state before the first update. A learner's networks depend on its name and not on what
    else is trained."""
    nets = {name: one.init(spec, _key_of(key, name)) for name, one in team.learners.items()}
    optimizers = {
        name: one.optimizer().init(eqx.filter(nets[name].trained, eqx.is_inexact_array))
        for name, one in team.learners.items()
    }
    return TeamState(nets, optimizers, jnp.zeros((), jnp.int32))


def update_team(
    team: Team, spec: Spec, state: TeamState, chunks: Any, key: Key, of_critic: Any = None
) -> tuple[TeamState, dict[str, jax.Array]]:
    """One gradient step of every learner on a batch of chunks (`Chunk` with a leading axis); all
    gradients are taken before anything is changed. The critic's chunks may be longer ones, that
    begin in the same states.

    **Returns:** the state, and every loss, its mean over the batch, as `name/loss`.
    """
    judges = team.critic.judges(state.nets["critic"], spec)
    losses = {name: partial(_of_actor, actor, judges) for name, actor in team.actors.items()}
    losses["critic"] = partial(_of_critic, team, state.nets, judges)
    nets, optimizers, metrics = {}, {}, {}
    for name, learner in team.learners.items():
        keys = jax.random.split(_key_of(key, name), len(chunks.weight))
        seen = of_critic if name == "critic" and of_critic is not None else chunks
        found = _step(losses[name], learner, state.nets[name], state.optimizers[name], seen, keys)
        nets[name], optimizers[name] = found[0], found[1]
        metrics |= {f"{name}/{loss}": value for loss, value in found[2].items()}
    return TeamState(nets, optimizers, state.step + 1), metrics


def _step(
    losses: Any, learner: Any, nets: Networks, optimizer: Any, chunks: Any, keys: Any
) -> tuple:
    @partial(eqx.filter_value_and_grad, has_aux=True)
    def total(trained):
        def one(chunk, key):
            each = losses(nets._replace(trained=trained), chunk, key)
            return {name: chunk.weight * loss for name, loss in each.items()}

        means = jax.tree.map(jnp.mean, jax.vmap(one)(chunks, keys))
        return sum(means.values()), means

    (_, metrics), gradient = total(nets.trained)
    changes, optimizer = learner.optimizer().update(gradient, optimizer)
    trained = eqx.apply_updates(nets.trained, changes)
    return learner.follow(nets._replace(trained=trained)), optimizer, metrics


def _of_actor(actor: ActorLearner, judges: Judges, nets: Networks, chunk: Chunk, key: Key) -> dict:
    return actor.losses(nets, chunk, key, judges)


def _of_critic(
    team: Team,
    before: Mapping[str, Networks],
    judges: Judges,
    nets: Networks,
    chunk: Chunk,
    key: Key,
) -> dict:
    actor = team.actors.get(team.next_actor or "")
    if not (team.critic.needs_action and isinstance(actor, Acts)):
        return team.critic.losses(nets, chunk, None)
    action = actor.act(before[team.next_actor or ""], judges, chunk.next_obs, key)
    return team.critic.losses(nets, chunk, action)


def _key_of(key: Key, name: str) -> Key:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))

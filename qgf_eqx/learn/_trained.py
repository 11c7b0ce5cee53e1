"""A trained run, read back from its folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from .. import checkpoint
from .._fields import Bounded, bounded
from .._run_folder import RunError
from .._types import Action, Guidance, Key, Obs, Policy, Value
from ..checkpoint import CheckpointError
from ..nn import Encoded
from . import _old_runs
from ._config import TrainConfig, read_config
from ._layout import Part, RealObs, example_of, parts_of
from ._learner import Acts, Guides, HasPolicy, Judges, Spec
from ._units import Units, blank_units
from ._updates import init
from .loop import TeamState

FILE = "checkpoint.safetensors"


class SavedState(NamedTuple):
    """What a checkpoint holds."""

    state: TeamState
    units: Units


class Saved(NamedTuple):
    """What was found in a checkpoint."""

    config: TrainConfig
    spec: Spec
    layout: tuple[Part, ...]
    data: dict | None
    """The fingerprint of the data that it was trained on; an older version has none."""
    state: TeamState
    units: Units
    sha256: str
    """Of the file."""
    hindsight: dict | None = None
    """What a goal was, by name; an older version has none."""


def metadata(
    spec: Spec, layout: tuple[Part, ...], data: dict, hindsight: dict | None
) -> dict[str, Any]:
    """What a checkpoint says beside its config and step."""
    known = {"spec": spec._asdict(), "obs": layout, "data": data}
    return known if hindsight is None else {**known, "hindsight": hindsight}


def read_saved(path: Path) -> Saved:
    """Reads a checkpoint, once.

    **Raises:** `CheckpointError` if it is missing, damaged, or not of a training run; `RunError` if
    its config is.
    """
    held = checkpoint.read_checkpoint(path)
    config = read_config(held.metadata.get("config"), path)
    layout = _layout(held)
    if "spec" in held.metadata:
        spec = _spec(held)
        like = eqx.filter_eval_shape(lambda: init(config, spec))
        state, units = held.into(SavedState(like, blank_units(config, spec)))
    else:
        spec, state, units = _old_runs.read(held, config, layout)
    data, goal = (held.metadata.get(name) for name in ("data", "hindsight"))
    return Saved(config, spec, layout, data, state, units, held.sha256, goal)


def _layout(held: checkpoint.Held) -> tuple[Part, ...]:
    try:
        return parts_of(held.metadata.get("obs", ()))
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{held.path} does not say how its observations are laid out."
        ) from None


def _spec(held: checkpoint.Held) -> Spec:
    try:
        found = {name: _as_tuple(value) for name, value in held.metadata["spec"].items()}
        return Spec(**found)
    except (TypeError, AttributeError):
        raise CheckpointError(f"{held.path} does not say what its networks are for.") from None


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Trained:
    """The networks of a run, which take real observations: dicts and other PyTrees are joined, and
    normalised if the run does so. In a run with goals, an observation is `(state, goal)`. Actions
    are in the flow's units, whose noise has size one; `units.to_action` converts them to the
    environment's.

    ```python
    run = load_run("runs/seed0")
    action = run.units.to_action(sample(run.policy, run.critic, obs, key))
    ```
    """

    saved: Saved

    @property
    def config(self) -> TrainConfig:
        """Of its training."""
        return self.saved.config

    @property
    def units(self) -> Units:
        """From the flow's actions to the environment's, and back."""
        return self.saved.units

    @property
    def step(self) -> int:
        """How many updates it has made."""
        return int(self.saved.state.step)

    @property
    def sha256(self) -> str:
        """Of its checkpoint."""
        return self.saved.sha256

    @property
    def policy(self) -> Policy:
        """The flow that guidance takes: the actor `flow`, or else the first that is one.

        **Raises:** `RunError` if no actor is a flow."""
        flows = [name for name, one in self.config.actors.items() if isinstance(one, HasPolicy)]
        if not flows:
            raise RunError("no actor of this run is a flow: train one, `--actors flow`.")
        return self.policy_of("flow" if "flow" in flows else flows[0])

    @property
    def critic(self) -> Bounded:
        """The critic that guides, within the bounds of the data's actions."""
        inner = self._judges.critic
        return bounded(self._real(inner.critic), inner.low, inner.high)

    @property
    def values(self) -> Callable:
        """Every member of the critic that guides, `(obs, action) -> (members,)`."""
        return self._real(self._judges.values)

    @property
    def value(self) -> Value | None:
        """The state value, if the critic has one."""
        return None if self._judges.value is None else self._real(self._judges.value)

    def example_obs(self) -> Obs:
        """An observation of zeros, in the shapes and dtypes that the run takes: for compiling.

        **Raises:** `ValueError` if its containers are neither dicts, lists nor tuples.
        """
        spec = self.saved.spec
        state = example_of(self.saved.layout, spec.state_size)
        return (state, np.zeros(spec.goal_size, np.float32)) if spec.goal_size else state

    def policy_of(self, actor: str) -> Policy:
        """The flow of an actor.

        **Raises:** `RunError` if there is no such actor, or it is no flow.
        """
        learner = self._learner(actor)
        if not isinstance(learner, HasPolicy):
            raise RunError(f"`{actor}` is not a flow that guidance could take.")
        return self._real(learner.policy(self.saved.state.nets[actor]))

    def estimator_of(self, actor: str) -> Guidance:
        """The estimator that an actor has learned.

        **Raises:** `RunError` if there is no such actor, or it does not guide.
        """
        learner = self._learner(actor)
        if not isinstance(learner, Guides):
            raise RunError(f"`{actor}` does not guide.")
        return learner.estimator(self.saved.state.nets[actor], self._real)

    def actor(self, actor: str) -> "Actor":
        """An actor that draws its actions itself.

        **Raises:** `RunError` if there is no such actor, or it draws none.
        """
        learner = self._learner(actor)
        if not isinstance(learner, Acts):
            raise RunError(f"`{actor}` draws no actions itself.")
        nets = self.saved.state.nets[actor]
        return Actor(learner, nets, self._judges, self._encoder, self.saved.spec.action_shape)

    @cached_property
    def _judges(self) -> Judges:
        return self.config.critic.judges(self.saved.state.nets["critic"], self.saved.spec)

    @property
    def _encoder(self) -> RealObs | None:
        obs, with_goal = self.units.obs, self.saved.spec.goal_size > 0
        plain = not (self.saved.layout or with_goal) and obs is None
        return None if plain else RealObs(obs, self.saved.layout, with_goal)

    def _real(self, model: Any) -> Any:
        return model if self._encoder is None else Encoded(self._encoder, model)

    def _learner(self, actor: str) -> Any:
        if actor not in self.config.actors:
            raise RunError(
                f"this run has no actor `{actor}`; it has {', '.join(self.config.actors)}. Train "
                "it beside them, `--actors`, in another folder."
            )
        return self.config.actors[actor]


class Actor(eqx.Module):
    """A trained actor: from an observation and a key to an action in the flow's units."""

    learner: Any = eqx.field(static=True)
    nets: Any
    judges: Judges
    encoder: RealObs | None
    action_shape: tuple[int, ...] = eqx.field(static=True)

    def act(self, obs: Obs, key: Key, **options: Any) -> Action:
        """One action for one observation."""
        seen = obs if self.encoder is None else self.encoder(obs)
        return self.learner.act(self.nets, self.judges, seen, key, **options)


def load_run(run_dir: str | Path) -> Trained:
    """A run, from its folder.

    **Raises:** `CheckpointError` if there is no intact checkpoint of a finished update.
    """
    return Trained(read_saved(Path(run_dir) / FILE))


def load_config(run_dir: str | Path) -> tuple[TrainConfig, int | None]:
    """The config of a run, and how many updates its checkpoint has made (`None` if an older version
    saved it), without its networks.

    **Raises:** as `load_run`.
    """
    path = Path(run_dir) / FILE
    found = checkpoint.read_metadata(path)
    step = found.get("step")
    return read_config(found.get("config"), path), step if type(step) is int else None

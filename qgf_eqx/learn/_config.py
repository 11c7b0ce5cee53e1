"""The settings of a training run: checked where they are made, read, and compared."""

import dataclasses
import functools
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .._run_folder import RunError
from ..data.goals import GoalDraw
from ._kinds import as_dict, from_dict
from ._learner import ActorLearner, CriticLearner
from ._settings import check, plain, setting
from .actors import BC
from .critics import IQL
from .loop import Team

_Config = TypeVar("_Config", bound=type)

NORMALISERS = ("none", "standardise", "min-max")

_SHARED = ("width", "depth", "learning_rate")
_OF_THE_CRITIC = {"critics": "critics", "expectile": "expectile", "ema_rate": "ema_rate"}
_OF_THE_CRITIC |= {"tau": "expectile"}
OLD = (*_SHARED, *_OF_THE_CRITIC, "paper_time")
"""Settings that are the learners' now: in files for good, as keywords for one version."""


def _takes_old_settings(config: _Config) -> _Config:
    """The class, made from settings that are the learners' now too, with a warning."""
    make: Any = config.__init__

    @functools.wraps(make)
    def make_from_any(self, *positional, **settings):
        old = {name: settings.pop(name) for name in OLD if name in settings}
        if old:
            names = ", ".join(f"`{name}`" for name in old)
            message = (
                f"{names} of `TrainConfig` are settings of its learners now, "
                "`critic=IQL(...)` and `actors={'flow': BC(...)}`; as keywords they go with the "
                "next version."
            )
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            settings = _learners_of(old) | settings
        make(self, *positional, **settings)

    config.__init__ = make_from_any
    return config


def _learners_of(old: dict[str, Any]) -> dict[str, Any]:
    """The critic and the flow of settings as older versions had them."""
    shared = {name: old[name] for name in _SHARED if name in old}
    critic = {new: old[name] for name, new in _OF_THE_CRITIC.items() if name in old}
    flow = {"paper_time": old["paper_time"]} if "paper_time" in old else {}
    shared_critic, shared_flow = plain(IQL, shared | critic), plain(BC, shared | flow)
    return {"critic": IQL(**shared_critic), "actors": {"flow": BC(**shared_flow)}}


@_takes_old_settings
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a run is made of: data, batches, and what is trained on them. The defaults are the
    paper's where it names them."""

    env: str
    """The task, say `cube-single-play-singletask-task2-v0`."""
    updates: int = 500_000
    """Gradient steps."""
    batch: int = 1024
    """Chunks per gradient step."""
    horizon: int = 5
    """H, the actions per chunk."""
    gamma: float = setting(0.999, most=1)
    """The discount of one environment step."""
    seed: int = setting(0, least=0)
    """The seed of the parameters, the batches and the noise."""
    time_limit_masks: bool = False
    """The authors' masks for their 100M data, for parity: success does not stop the bootstrap."""
    features: int = 512
    """The outputs of each network's encoder of an image, if the observations have images."""
    crop: int = setting(3, least=0)
    """The most pixels by which images are shifted in training: a random crop; 0 for none."""
    normalise_obs: str = setting("none", options=NORMALISERS)
    """What the networks see of every feature: `none` (as it is), `standardise` or `min-max`."""
    normalise_actions: str = setting("none", options=NORMALISERS)
    """As `normalise_obs`, of the actions inside the flow; its outputs are converted back."""
    goals: bool = False
    """Train on hindsight goals instead of the data's rewards: the critic learns to reach any."""
    goal_current: float = setting(0.2, least=0, most=1)
    """The share of a critic's goals that are the state itself."""
    goal_future: float = setting(0.5, least=0, most=1)
    """The share that lie ahead in the same episode; the rest are states of all the data."""
    goal_distance: str = setting("geometric", options=("geometric", "uniform"))
    """How far ahead: geometric with 1 - gamma, or uniform up to the episode's end."""
    critic: CriticLearner = IQL()  # noqa: RUF009 (frozen)
    """What actors are trained and guided by."""
    actors: Mapping[str, ActorLearner] = dataclasses.field(default_factory=lambda: {"flow": BC()})
    """What is trained on the same batches, by name; guidance takes the one called `flow`."""
    next_actor: str | None = None
    """The actor whose actions the critic is trained on, if it needs some, as `td` does."""

    def __post_init__(self):
        check(self)
        if not isinstance(self.critic, CriticLearner):
            raise RunError(f"`critic` must be a critic, such as IQL(), got {self.critic}.")
        if not isinstance(self.actors, Mapping):
            raise RunError("`actors` must be learners by name, such as {'flow': BC()}.")
        for name, actor in self.actors.items():
            if not isinstance(actor, ActorLearner) or isinstance(actor, CriticLearner):
                raise RunError(f"`actors` must be actors by name, such as BC(); `{name}` is not.")
        object.__setattr__(self, "actors", dict(self.actors))
        try:
            _ = self.team, self.goal_draw
        except ValueError as error:
            raise RunError(str(error)) from None

    def __hash__(self) -> int:
        return hash(json.dumps(self.as_dict()))

    @property
    def team(self) -> Team:
        """What is trained together."""
        return Team(self.critic, self.actors, self.next_actor)

    @property
    def goal_draw(self) -> GoalDraw:
        """Where the critic's goals come from."""
        geometric = self.goal_distance == "geometric"
        return GoalDraw(self.goal_current, self.goal_future, geometric)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        actors = {name: as_dict(actor) for name, actor in self.actors.items()}
        return {**found, "critic": as_dict(self.critic), "actors": actors}


def read_config(found: Any, source: str | Path) -> TrainConfig:
    """A `TrainConfig` from what JSON holds, of this version or an older one.

    **Raises:** `RunError` naming the source and the key that is unknown, missing, of a wrong type
    or out of range.
    """
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    if not isinstance(found, dict):
        raise RunError(f"{source} holds no config.")
    if "tau" in found and "expectile" in found:
        raise RunError(f"{source} has `tau` and its new name, `expectile`. Delete the old one.")
    for name in found:
        if name not in known and name not in OLD:
            raise RunError(
                f"{source} has an unknown setting `{name}`; known are {', '.join(known)}."
            )
    if "env" not in found:
        raise RunError(f"{source} does not name its `env`.")
    old = {name: found[name] for name in OLD if name in found}
    if old and {"critic", "actors"} & found.keys():
        raise RunError(f"{source} has learners, and settings that are theirs: {', '.join(old)}.")
    settings = {name: value for name, value in found.items() if name not in old}
    if "critic" in settings:
        settings["critic"] = from_dict(settings["critic"], source)
    if "actors" in settings:
        if not isinstance(settings["actors"], dict):
            raise RunError(f"{source} holds no actors.")
        actors = settings["actors"].items()
        settings["actors"] = {name: from_dict(actor, source) for name, actor in actors}
    try:
        return TrainConfig(**plain(TrainConfig, settings), **(_learners_of(old) if old else {}))
    except RunError as error:
        raise RunError(f"{source}: {error}") from None


def refuse_other(path: Path, found: TrainConfig, wanted: TrainConfig) -> None:
    """**Raises:** `RunError` naming the settings that differ, but for `updates`."""
    changes = [f"`{n}` {theirs} -> {ours}" for n, theirs, ours in differing(found, wanted)]
    if changes:
        raise RunError(
            f"{path} is of a run with other settings: {', '.join(changes)}. Choose another folder, "
            "or delete it to start over."
        )


def differing(one: TrainConfig, other: TrainConfig) -> list[tuple[str, str, str]]:
    """The settings in which two configs differ, but for `updates`: of each its name, as
    `actors.fql.alpha`, and both values."""
    theirs, ours = (dict(_flat(config.as_dict())) for config in (one, other))
    names = sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name != "updates" and theirs.get(name) != ours.get(name)
    )
    of = lambda settings, name: repr(settings[name]) if name in settings else "none"  # noqa: E731
    return [(name, of(theirs, name), of(ours, name)) for name in names]


def _flat(settings: dict[str, Any], before: str = ""):
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value

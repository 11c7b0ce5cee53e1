"""The settings of a training run: checked where they are made, read, and compared."""

import dataclasses
import functools
import math
import numbers
import warnings
from pathlib import Path
from typing import Any, TypeVar

from ._run_folder import RunError

_Config = TypeVar("_Config", bound=type)

NORMALISERS = ("none", "standardise", "min-max")

RENAMED = {"tau": "expectile"}
"""Old names of settings: in files for good, as keywords for one version."""


def _takes_old_names(config: _Config) -> _Config:
    """The class, made from old names too, each with a warning that gives the new one."""
    make: Any = config.__init__

    @functools.wraps(make)
    def make_from_any(self, *positional, **settings):
        for old in RENAMED.keys() & settings.keys():
            _warn_of(old)
            settings[RENAMED[old]] = settings.pop(old)  # over what `dataclasses.replace` gives
        make(self, *positional, **settings)

    config.__init__ = make_from_any
    return config


def _warn_of(old: str) -> None:
    message = f"`{old}` is now `{RENAMED[old]}`; the old name goes with the next version."
    warnings.warn(message, DeprecationWarning, stacklevel=3)


@_takes_old_names
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a run is made of. The defaults are the paper's where it names them."""

    env: str
    """The task, say `cube-single-play-singletask-task2-v0`."""
    updates: int = 500_000
    """Gradient steps."""
    batch: int = 1024
    """Chunks per gradient step."""
    horizon: int = 5
    """H, the actions per chunk."""
    width: int = 1024
    """Of the hidden layers of all networks."""
    depth: int = 4
    """Hidden layers of all networks."""
    critics: int = 2
    """Members of the critic's ensemble, which is reduced by its minimum."""
    gamma: float = 0.999
    """The discount of one environment step."""
    expectile: float = 0.9
    """Of the value loss, in (0, 1): the higher, the closer to the best action of the data."""
    ema_rate: float = 0.005
    """How fast the target critic follows the critic."""
    learning_rate: float = 3e-4
    """Of Adam."""
    seed: int = 0
    """Of the parameters, the batches and the noise."""
    paper_time: bool = False
    """The paper's time embedding and time grid, for parity: ties the flow to T = 10."""
    time_limit_masks: bool = False
    """The authors' masks for their 100M data, for parity: success does not stop the bootstrap."""
    features: int = 512
    """Numbers that every picture becomes, in each network, if the observations have pictures."""
    crop: int = 3
    """Pixels by which pictures are shifted in training, at most: a random crop; 0 for none."""
    normalise_obs: str = "none"
    """What the networks see of every feature: `none` (as it is), `standardise` or `min-max`."""
    normalise_actions: str = "none"
    """As `normalise_obs`: what the flow makes, which becomes an action on its way out."""

    @property
    def tau(self) -> float:
        """The old name of `expectile`, for one version."""
        _warn_of("tau")
        return self.expectile

    def __post_init__(self):
        for name, value in _typed(vars(self)).items():
            object.__setattr__(self, name, value)
        if not self.env:
            raise RunError("`env` must name a task, got an empty text.")
        counts = ("updates", "batch", "horizon", "width", "depth", "critics", "features", "crop")
        for name in counts:
            least = 0 if name == "crop" else 1
            if getattr(self, name) < least:
                raise RunError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
            if getattr(self, name) >= 2**31:
                raise RunError(f"`{name}` must be below 2^31, got {getattr(self, name)}.")
        for name in ("depth", "critics"):  # each is an array or more, made one by one
            if getattr(self, name) > 1000:
                raise RunError(f"`{name}` must be at most 1000, got {getattr(self, name)}.")
        for name in ("gamma", "expectile", "ema_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise RunError(f"`{name}` must be in (0, 1], got {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise RunError(
                f"`learning_rate` must be positive and finite, got {self.learning_rate}."
            )
        for name in ("normalise_obs", "normalise_actions"):
            if getattr(self, name) not in NORMALISERS:
                raise RunError(
                    f"`{name}` must be one of {', '.join(NORMALISERS)}, got {getattr(self, name)}."
                )
        if not 0 <= self.seed < 2**31:
            raise RunError(f"`seed` must be in [0, 2^31), got {self.seed}.")


def read_config(found: Any, source: str | Path) -> TrainConfig:
    """A `TrainConfig` from what JSON holds, of this version or an older one.

    **Raises:** `RunError` naming the source and the key that is unknown, missing, of a wrong type
    or out of range.
    """
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    if not isinstance(found, dict):
        raise RunError(f"{source} holds no config.")
    for old, new in RENAMED.items():
        if old in found and new in found:
            raise RunError(f"{source} has `{old}` and its new name, `{new}`. Delete the old one.")
    found = {RENAMED.get(name, name): value for name, value in found.items()}
    for name in found:
        if name not in known:
            raise RunError(
                f"{source} has an unknown setting `{name}`; known are {', '.join(known)}."
            )
    if "env" not in found:
        raise RunError(f"{source} does not name its `env`.")
    try:
        return TrainConfig(**_typed(found))
    except RunError as error:
        raise RunError(f"{source}: {error}") from None


def refuse_other(path: Path, found: TrainConfig, wanted: TrainConfig) -> None:
    """**Raises:** `RunError` naming the settings that differ, but for `updates`."""
    ours, theirs = dataclasses.asdict(wanted), dataclasses.asdict(found)
    differing = sorted(n for n in ours if theirs[n] != ours[n] and n != "updates")
    changes = [f"`{n}` {theirs[n]!r} -> {ours[n]!r}" for n in differing]
    if changes:
        raise RunError(
            f"{path} is of a run with other settings: {', '.join(changes)}. Choose another folder, "
            "or delete it to start over."
        )


_KINDS = {int: numbers.Integral, float: numbers.Real, bool: bool, str: str}


def _typed(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as plain Python's numbers and texts.

    **Raises:** `RunError` naming the first of a wrong type: a truth value is not a number.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    typed = {}
    for name, value in settings.items():
        kind: Any = kinds[name]
        try:
            plain = value.item() if getattr(value, "shape", None) == () else value
            if not isinstance(plain, _KINDS[kind]) or (
                isinstance(plain, bool) and kind is not bool
            ):
                raise TypeError
            typed[name] = kind(plain)
        except (TypeError, ValueError, OverflowError):  # or a whole number that no float reaches
            raise RunError(f"`{name}` must be {kind.__name__}, got {value!r}.") from None
    return typed

"""Settings by name, from `presets.toml`: a group, such as `paper`, and what it is for."""

import dataclasses
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from .._run_folder import RunError
from ._config import TrainConfig
from ._kinds import ACTORS, CRITICS, learners


def presets() -> dict[str, TrainConfig]:
    """All of them, by `group/name`."""
    return {
        f"{group}/{name}": _config({**shared, **own})
        for group, found in _file().items()
        for shared in [{k: v for k, v in found.items() if not _is_entry(v)}]
        for name, own in found.items()
        if _is_entry(own)
    }


def preset(name: str) -> TrainConfig:
    """The config of a name, such as `paper/cube-triple`.

    **Raises:** `RunError` if there is none.
    """
    known = presets()
    if name not in known:
        raise RunError(f"unknown preset `{name}`; known are {', '.join(known)}.")
    return known[name]


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(files("qgf_eqx").joinpath("presets.toml").read_text())


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and "env" in value


def _config(settings: dict[str, Any]) -> TrainConfig:
    known = CRITICS | ACTORS
    of_one = {name: settings.pop(name) for name in [*settings] if name in known}
    shared = settings.pop("learners", {})
    found = learners(settings.pop("critic"), settings.pop("actors"), **shared)
    every: dict[str, Any] = {"": found["critic"], **found["actors"]}
    for name, one in every.items():
        changes = next((own for kind, own in of_one.items() if type(one) is known[kind]), {})
        every[name] = dataclasses.replace(one, **changes)
    critic = every.pop("")
    return TrainConfig(**settings, critic=critic, actors=every)

"""Settings by name, from `presets.toml`: a group, such as `paper`, and what it is for."""

import dataclasses
import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from .._named import one_of, similar
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
        raise RunError(f"unknown preset `{name}`; {one_of(name, known, 0.8)}")
    return known[name]


def config_of(*tables: dict[str, Any]) -> TrainConfig:
    """The config of tables as in `presets.toml`; what is in an earlier one goes over a later one's,
    and over what `preset` names.

    **Raises:** `RunError` if a setting is unknown, missing or wrong.
    """
    found: dict[str, Any] = {"critic": "iql", "actors": ["flow"]}
    name = next((table["preset"] for table in tables if "preset" in table), None)
    for table in (*_tables_of(name), *reversed(tables)):
        for key, value in table.items():
            inner = isinstance(value, dict) and isinstance(found.get(key), dict)
            found[key] = {**found[key], **value} if inner else value
    found.pop("preset", None)
    if "env" not in found:
        raise RunError("`env` is missing: give one, or a `preset` with one.")
    try:
        return _config(found)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise RunError(f"a setting is wrong ({error}).") from None
        if unknown[1] in _settings():
            raise RunError(
                f"`{unknown[1]}` is not a setting of all networks that it is given to: write it in "
                "the table of one that has it, such as `fql = { alpha = 300.0 }`."
            ) from None
        guess = similar(unknown[1], _settings())
        raise RunError(f"unknown setting `{unknown[1]}`{'; ' + guess if guess else '.'}") from None


def _tables_of(name: str | None) -> list[dict[str, Any]]:
    if name is None:
        return []
    preset(name)  # or an error
    group, _, entry = name.partition("/")
    shared = {key: value for key, value in _file()[group].items() if not _is_entry(value)}
    return [shared, _file()[group][entry]]


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(files("qgf_eqx").joinpath("presets.toml").read_text())


def _settings() -> set[str]:
    """The names of all settings, of runs and of learners."""
    kinds = [TrainConfig, *CRITICS.values(), *ACTORS.values()]
    return {"preset", "learners"} | {f.name for kind in kinds for f in dataclasses.fields(kind)}


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and "env" in value


def _config(settings: dict[str, Any]) -> TrainConfig:
    known = CRITICS | ACTORS
    of_one = {name: settings.pop(name) for name in [*settings] if name in known}
    for name, own in of_one.items():
        known[name](**own)  # of one that is not trained here, too
    of_nets = {f.name for kind in known.values() for f in dataclasses.fields(kind)}
    of_run = {f.name for f in dataclasses.fields(TrainConfig)} | {"learners"}
    if wrong := sorted((of_nets & settings.keys()) - of_run):
        raise RunError(
            f"`{wrong[0]}` is a setting of networks: write `learners = {{ {wrong[0]} = ... }}`, or "
            "the table of one of them."
        )
    shared = settings.pop("learners", {})
    found = learners(settings.pop("critic"), settings.pop("actors"), **shared)
    every: dict[str, Any] = {"": found["critic"], **found["actors"]}
    for name, one in every.items():
        changes = next((own for kind, own in of_one.items() if type(one) is known[kind]), {})
        every[name] = dataclasses.replace(one, **changes)
    critic = every.pop("")
    return TrainConfig(**settings, critic=critic, actors=every)

"""A plan: tasks, settings, training seeds and methods, as data."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from .._named import one_of
from ..evaluate._auto import FACTORS, UNTUNED
from ..learn import RunError, TrainConfig
from ..learn._presets import config_of


class PlanError(ValueError):
    """A plan that cannot be carried out: the sentence names the file and the entry."""


@dataclass(frozen=True)
class Study:
    """A task of a plan: its settings, and what is played on it."""

    config: TrainConfig
    """Of all its trainings, but for the seed."""
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    episodes: int
    """Reported ones, per training seed."""
    tuning_budget: int
    """Tuning episodes per training seed and method, divided among its weights."""
    data_dir: str
    """Where the data are, or are collected to."""
    collect: int = 0
    """Transitions that are made on this machine, if the data are not there; 0 for none."""
    transitions: int = 0
    """How many the data must have at least; then they are not downloaded. 0 for any number."""
    seeds_per_cell: int = 1
    """Training seeds that one cell trains in one program."""
    weights: tuple[float, ...] = ()
    """Of guidance, to choose from; by default around `starting_weight`."""
    analyses: bool = False
    """Whether to make the paper's analyses of its gradients and values."""
    name: str = ""
    """In tables; by default the task's. Two studies of one task, of two widths say, need names."""

    @property
    def label(self) -> str:
        """Its name."""
        return self.name or self.config.env


@dataclass(frozen=True)
class Plan:
    """What a suite runs."""

    name: str
    studies: tuple[Study, ...]


_NAME = re.compile(r"[\w .:-]{1,100}")
_SHARED = {field.name for field in fields(Study)} - {"config"}


def read_plan(path: str | Path) -> Plan:
    """The plan of a TOML file, or one of this package's (`plans`), by its name: `paper`.

    ```toml
    name = "small"
    seeds = [0, 1, 2]
    methods = ["flow", "qgf", "best-of-16"]
    episodes = 50
    tuning_budget = 60
    data_dir = "data"

    [train]  # settings of all tasks, as in presets
    updates = 10_000

    [[tasks]]
    preset = "cpu/pointmaze-medium"
    collect = 500_000

    [[tasks]]
    preset = "cpu/cube-single"
    updates = 20_000
    learners = { width = 256 }
    ```

    A task's settings override `[train]`, which overrides the preset. Only those of a preset's
    actors that `methods` need are trained; `actors` of the plan are all trained. A task may also
    set its own `seeds`, `methods`, `episodes` and the like, and a `name`, which it needs if another
    entry has the same task.

    **Raises:** `PlanError` naming the file and the entry that is missing, unknown or wrong.
    """
    path = Path(path)
    if not path.exists() and str(path) in plans():
        path = plans()[str(path)]
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        known = f"Plans that come with this package: {', '.join(plans())}."
        raise PlanError(f"{path} cannot be read: {error.strerror}. {known}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is not TOML: {error}.") from None
    tasks, train = found.pop("tasks", None), found.pop("train", {})
    name = found.pop("name", path.stem)
    if not isinstance(name, str) or not isinstance(train, dict):
        raise PlanError(f"{path}: `name` must be a text, and `train` a table.")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(t, dict) for t in tasks):
        raise PlanError(f"{path} has no `[[tasks]]`.")
    if unknown := found.keys() - _SHARED:
        known = one_of(min(unknown), sorted({"name", "train", "tasks", *_SHARED}))
        raise PlanError(f"{path} has an unknown `{min(unknown)}`; {known}")
    studies = [_study(f"{path}, task {i}", found, train, task) for i, task in enumerate(tasks, 1)]
    names = [study.label for study in studies]
    for label in names:
        if names.count(label) > 1:
            raise PlanError(f"{path} has `{label}` twice: give each a `name`.")
    return Plan(name, tuple(studies))


def _study(where: str, shared: dict, train: dict, task: dict[str, Any]) -> Study:
    from ..evaluate.comparison import check_weights
    from ..evaluate.sampler import plain_weight

    own = {name: value for name, value in task.items() if name in _SHARED}
    settings = {name: value for name, value in task.items() if name not in _SHARED}
    parts = {"data_dir": "data", "tuning_budget": 60, "episodes": 50, **shared, **own}
    for name in ("seeds", "methods"):
        if not parts.get(name):
            raise PlanError(f"{where} has no `{name}`.")
    for name in ("seeds", "methods", "weights"):
        if name in parts and not isinstance(parts[name], list):
            raise PlanError(f"{where}: `{name}` must be a list, got {parts[name]!r}.")
    if not isinstance(wanted := parts.get("analyses", False), bool):
        raise PlanError(f"{where}: `analyses` must be true or false, got {wanted!r}.")
    if "seed" in settings or "seed" in train:
        raise PlanError(f"{where}: `seed` is not a setting of a plan: write `seeds`, a list.")
    parts |= {n: tuple(parts[n]) for n in ("seeds", "methods", "weights") if n in parts}
    try:
        if "weights" in parts:
            parts["weights"] = tuple(plain_weight(w, "weights") for w in parts["weights"])
            check_weights(parts["weights"])
        config = config_of(settings, train)
        for seed in parts["seeds"]:
            replace(config, seed=seed)
    except (RunError, TypeError, ValueError) as error:
        raise PlanError(f"{where}: {error}") from None
    study = _checked(where, Study(config, **parts))
    if "actors" in settings or "actors" in train:
        return study
    return replace(study, config=replace(config, actors=_needed(config, study.methods)))


def _needed(config: TrainConfig, methods: Sequence[str]) -> dict[str, Any]:
    """Of a preset's actors those that the methods play, and the flow."""
    from ..evaluate import method

    wanted = {method(name, actors=config.actors).actor for name in methods}
    wanted = {*wanted, "flow", config.next_actor} - {""}
    return {
        name: actor
        for name, actor in config.actors.items()
        if name in wanted or name.rpartition("-")[0] in wanted
    }


def unavailable(plan: Plan) -> dict[str, str]:
    """The tasks that cannot be studied on this machine, and why."""
    from ..evaluate import task_of

    found = {}
    for study in plan.studies:
        try:
            task_of(study.config.env)
            lacks = missing_data(study)
        except Exception as error:  # a module of the user's can raise anything
            lacks = str(error)
        if lacks:
            found[study.config.env] = lacks
    return found


def missing_data(study: Study) -> str:
    """Which of OGBench's files a study needs that is not there, and would be a smaller one if it
    were downloaded; empty if there is none."""
    if not study.transitions or study.collect or ":" in study.config.env:
        return ""
    from ..data import dataset_name

    file = Path(study.data_dir) / f"{dataset_name(study.config.env)}.npz"
    if file.exists():
        return ""
    return f"{file} is not there: the plan needs its {study.transitions:,} `transitions`."


@cache
def plans() -> dict[str, Path]:
    """The plans that come with this package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "plans").glob("*.toml"))}


def weights_of(study: Study, name: str) -> tuple[float, ...]:
    """What a method tries: its own choices, the plan's weights, or factors of a starting weight.

    **Arguments:** a study of a plan, and the method's name.
    """
    from ..evaluate import method

    row = method(name, actors=study.config.actors)
    if row.choices or not row.weighted:
        return row.choices
    return (UNTUNED,) if row.untuned else study.weights or FACTORS


def _checked(where: str, study: Study) -> Study:
    """The study, whose methods and counts are such."""
    from ..evaluate import method

    for name in ("episodes", "tuning_budget", "collect", "transitions", "seeds_per_cell"):
        count, least = getattr(study, name), 0 if name in ("collect", "transitions") else 1
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise PlanError(f"{where}: `{name}` must be an int of at least {least}, got {count!r}.")
    if not isinstance(study.name, str) or not _NAME.fullmatch(study.label):
        raise PlanError(
            f"{where}: `name` must be of letters, digits, spaces and `_-.:`, got {study.name!r}."
        )
    if study.analyses and "flow" not in study.config.actors:
        raise PlanError(f"{where}: `analyses` are of the actor `flow`, which `actors` lacks.")
    for each in (*study.seeds, *study.methods):
        if (*study.seeds, *study.methods).count(each) > 1:
            raise PlanError(f"{where} names {each} twice.")
    for name in study.methods:
        try:
            row = method(name, actors=study.config.actors)
        except ValueError as error:
            raise PlanError(f"{where}: {error}") from None
        if row.actor and not (row.actor in study.config.actors or row.choices):
            raise PlanError(
                f"{where}: `methods` has {name}, and none of `actors` is `{row.actor}`; they are "
                f"{', '.join(study.config.actors)}."
            )
        weights = 0 if row.untuned else len(weights_of(study, name))
        if study.tuning_budget < weights:
            raise PlanError(
                f"{where}: `tuning_budget` must be at least {weights}, an episode for each weight "
                f"of {name}, got {study.tuning_budget}."
            )
    return study

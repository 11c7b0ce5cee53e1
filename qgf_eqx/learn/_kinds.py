"""Learners by name, as the command line and files know them: `iql`, `fql`, `fql-30`, or
`package.module:Class` of your own."""

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from .._named import import_named
from .._run_folder import RunError
from . import actors, critics
from ._learner import Learner
from ._settings import plain

_STRENGTH = re.compile(r"(.+)-([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)")


def _kinds(package: ModuleType) -> dict[str, type]:
    """The learners of a package: the class of each module, by the module's name."""
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        contents = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
        for kind in contents.values():
            if isinstance(kind, type) and kind.__module__ == contents["__name__"]:
                if issubclass(kind, Learner):
                    found[module.name.replace("_", "-")] = kind
    return found


CRITICS = _kinds(critics)
"""The critics, by name."""
ACTORS = _kinds(actors)
"""The actors, by name."""


def learner(text: str, known: dict[str, type], **settings: Any) -> Any:
    """The learner of a name: a known one, or `package.module:Class`; behind `-`, a number is its
    `strength`, as in `fql-30`.

    **Raises:** `RunError` if there is none.
    """
    kind, number = split_strength(text, known)
    if kind not in known and ":" not in kind:
        raise RunError(
            f"unknown learner `{text}`; known are {', '.join(known)}, and a class of your own as "
            "`package.module:Class`."
        )
    found = known[kind] if kind in known else _foreign(kind)
    if number is not None:
        if not getattr(found, "strength", ""):
            raise RunError(f"unknown learner `{text}`: `{kind}` takes no number.")
        settings[found.strength] = float(number)  # type: ignore[attr-defined]
    return found(**settings)


def split_strength(text: str, known: Iterable[str]) -> tuple[str, str | None]:
    """A name and the number behind it, if it has one: `fql-30` is `fql` and 30."""
    match = None if text in known else _STRENGTH.fullmatch(text)
    return (match[1], match[2]) if match else (text, None)


def short_name(text: str) -> str:
    """By which a run knows an actor: the name, or that of one's own class."""
    return text.partition(":")[2] or text


def learners(
    critic: str = "iql", actors: Iterable[str] = ("flow",), **settings: Any
) -> dict[str, Any]:
    """The critic and the actors of these names, as `TrainConfig` and `Team` take them.

    ```python
    config = TrainConfig(task, **learners("iql", ["flow", "fql-30", "fql-100"], width=256))
    ```

    **Arguments:**

    - `critic`: one of `iql`, `td`, ..., or `package.module:Class`.
    - `actors`: of `flow`, `edp`, `fql`, ..., or of your own; a number sets the strength of a
      method, as in `fql-30`.
    - `settings`: that all of them have, such as `width`, `depth` and `learning_rate`.

    **Raises:** `RunError` if there is no such learner.
    """
    names = list(actors)
    known = [short_name(name) for name in names]
    twice = {name for name in known if known.count(name) > 1}
    if twice:
        raise RunError(f"`actors` has {', '.join(sorted(twice))} twice.")
    return {
        "critic": learner(critic, CRITICS, **settings),
        "actors": {short_name(name): learner(name, ACTORS, **settings) for name in names},
    }


def as_dict(learner: Any) -> dict[str, Any]:
    """A learner as JSON holds it: its kind, and its settings."""
    kind = type(learner)
    names = {cls: name for name, cls in (CRITICS | ACTORS).items()}
    name = names.get(kind, f"{kind.__module__}:{kind.__qualname__}")
    return {"kind": name, **dataclasses.asdict(learner)}


def from_dict(found: Any, source: Any) -> Any:
    """The learner of what JSON holds.

    **Raises:** `RunError` naming the source and what is unknown, missing or out of range.
    """
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        raise RunError(f"{source} holds no learner.")
    known = CRITICS | ACTORS
    name = found["kind"]
    if name not in known and ":" not in name:
        raise RunError(f"{source} has an unknown learner `{name}`; known are {', '.join(known)}.")
    kind: Any = known[name] if name in known else _foreign(name)
    settings = {key: value for key, value in found.items() if key != "kind"}
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in settings:
        if key not in fields:
            raise RunError(
                f"{source} has an unknown setting `{key}` of `{name}`; known are "
                f"{', '.join(fields)}."
            )
    try:
        return kind(**plain(kind, settings))
    except RunError as error:
        raise RunError(f"{source}: {error}") from None


def _foreign(text: str) -> type:
    module, _, name = text.partition(":")
    try:
        found = import_named(text)
    except ValueError as error:
        raise RunError(str(error)) from None
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise RunError(
            f"unknown learner `{text}`: there is no module `{error.name}`. Run the command in the "
            "folder that holds it, or install it."
        ) from None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise RunError(f"unknown learner `{text}`: `{name}` is not a dataclass of `{module}`.")
    return found

"""Settings as a frozen dataclass: plain Python's numbers and texts, within what each field says."""

import dataclasses
import functools
import math
import numbers
from typing import Any

from .._run_folder import RunError

_KINDS: dict[Any, Any] = {
    int: numbers.Integral,
    float: numbers.Real,
    bool: bool,
    str: str,
    str | None: str | None,
}


def setting(default: Any, **limits: Any) -> Any:
    """A field with limits: `least` and `most`, or `below`, of a number, `options` of a text.

    Without them, whole numbers are at least 1 and below 2^31, other numbers positive and finite,
    and texts not empty.
    """
    return dataclasses.field(default=default, metadata=limits)


def plain(kind: type, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a dataclass as plain Python's numbers and texts; others as they are.

    **Raises:** `RunError` naming the first of a wrong type: a truth value is not a number.
    """
    return {name: _plain(name, _types(kind).get(name), value) for name, value in settings.items()}


def check(settings: Any) -> None:
    """Makes the numbers and texts of a frozen dataclass plain, and checks them.

    **Raises:** `RunError` naming the first that is of a wrong type, or beyond its limits.
    """
    values = plain(type(settings), vars(settings))
    for field in dataclasses.fields(settings):
        object.__setattr__(settings, field.name, values[field.name])
        if _types(type(settings))[field.name] in _KINDS:
            _check_limits(field.name, values[field.name], **field.metadata)


@functools.cache
def _types(kind: type) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(kind)}


def _plain(name: str, kind: Any, value: Any) -> Any:
    if kind not in _KINDS:
        return value
    try:
        value = value.item() if getattr(value, "shape", None) == () else value
        if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind is not bool):
            raise TypeError
        return kind(value) if isinstance(kind, type) else value
    except (TypeError, ValueError, OverflowError):  # or a whole number that no float reaches
        said = kind.__name__ if isinstance(kind, type) else "a text or nothing"
        raise RunError(f"`{name}` must be {said}, got {value!r}.") from None


def _check_limits(
    name: str,
    value: Any,
    least: Any = None,
    most: Any = None,
    below: Any = math.inf,
    options: tuple[str, ...] = (),
) -> None:
    def refuse(what: str) -> None:
        raise RunError(f"`{name}` must {what}, got {value}.")

    if isinstance(value, bool) or value is None:
        return
    if options:
        if value not in options:
            refuse(f"be one of {', '.join(options)}")
    elif isinstance(value, str):
        if not value:
            raise RunError(f"`{name}` must be a name, got an empty text.")
    elif isinstance(value, int):
        least = 1 if least is None else least
        if value < least:
            refuse(f"be at least {least}")
        if most is not None and value > most:
            refuse(f"be at most {most}")
        if value >= 2**31:
            refuse("be below 2^31")
    elif not (
        (value > 0 if least is None else value >= least)
        and (value < below if most is None else value <= most)
    ):
        if most is None and below == math.inf:
            refuse(f"be {'positive' if least is None else f'at least {least}'} and finite")
        end = f"{below})" if most is None else f"{most}]"
        refuse(f"be in {'(0' if least is None else f'[{least}'}, {end}")

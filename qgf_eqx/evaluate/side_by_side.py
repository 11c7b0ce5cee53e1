"""Methods and weights beside each other on observations, before any episode is played."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import flops
from .._checks import batch_size, check_count, check_key
from .._types import Critic, Key, Obs, Policy, Weight
from ..analysis import nearest_distance
from ._auto import first_weight, grid_around
from .names import label, method
from .sampler import Sampler


@dataclass(frozen=True)
class Seen:
    """What a method does on the observations, at one weight. Means over observations and noises."""

    method: str
    weight: Any
    """A number, or a function of `(t, v, g)`."""
    value: float
    """Q of its actions, by the critic that guides."""
    judged: float
    """Q by the other critic; NaN without one."""
    distance: float
    """How far an action is from the plain flow's of the same key: root mean square over its
    numbers, in units of the plain flow's own spread."""
    to_data: float
    """How far it is from the nearest action of the data, in the same units; NaN without data."""
    mflop: float
    """Operations of an action, in millions; NaN where there is a callback, which is not counted."""


@dataclass(frozen=True)
class SideBySide:
    """Rows for people and programs: `print` it."""

    rows: tuple[Seen, ...]

    def __str__(self) -> str:
        other, data = (
            any(not math.isnan(getattr(row, name)) for row in self.rows)
            for name in ("judged", "to_data")
        )
        columns = f"{'other critic':>14}" if other else "", f"{'to data':>9}" if data else ""
        head = f"{'method':<20}{'weight':>12}{'value':>12}{columns[0]}{'distance':>10}{columns[1]}"
        lines = [f"{head}{'MFLOP':>9}"]
        for row in self.rows:
            judged = f"{row.judged:>14.4g}" if other else ""
            to_data = f"{row.to_data:>9.2f}" if data else ""
            lines.append(
                f"{label(row.method):<20}{_shown(row.weight):>12}{row.value:>12.4g}{judged}"
                f"{row.distance:>10.2f}{to_data}{_count(row.mflop):>9}"
            )
        lines.append("Distances are in units of the plain flow's own spread at an observation.")
        if any(math.isnan(x) for row in self.rows for x in (row.value, row.distance)):
            lines.append("nan: the critic or the policy gives values that are not finite.")
        return "\n".join(lines)


def _count(mflop: float) -> str:
    return "-" if math.isnan(mflop) else f"{mflop:.3g}"


def _shown(weight: Any) -> str:
    if not isinstance(weight, float):
        return str(weight)
    return f"{weight:.3g}" if weight else "-"


def side_by_side(
    policy: Policy,
    critic: Critic,
    observations: Obs,
    key: Key,
    *,
    methods: Sequence[str | Sampler] = ("flow", "qgf", "best-of-4"),
    weights: Sequence[Weight] | None = None,
    judge: Critic | None = None,
    data: Array | np.ndarray | None = None,
    noises: int = 8,
    steps: int = 10,
) -> SideBySide:
    """What methods and weights do to the actions, in one table. It plays no episode, so it tells
    how far a weight goes and how the critics value it, not whether that helps.

    ```python
    print(side_by_side(policy, critic, observations, key, judge=other))
    ```

    **Arguments:**

    - `policy`, `critic`: as for `sample`; make the critic `bounded`.
    - `observations`: a batch, along the first axis of every leaf.
    - `key`: of the noises, which all rows share.
    - `methods`: names of `names.METHODS`, or `Sampler`s; a `Sampler` with a weight keeps it.
    - `weights`: for the other guided methods, a row for each; by default from a
      hundredth of `analysis.starting_weight` to three times it.
    - `judge`: a critic that did not guide, such as another training seed's. If it sees no gain,
      guidance has exploited the first critic's errors. A gain that both see may still be an error,
      since critics of the same data can share errors away from it.
    - `data`: actions of the data, for the distance to the nearest: for each observation,
      `(observations, rows, *action)`, or for all, `(rows, *action)`.
    - `noises`: at each observation, two or more.
    - `steps`: of the flow.

    **Raises:** `ValueError` if a method is unknown or of a trained actor, or a count too small.
    """
    check_key(key)
    check_count("noises", noises, "the spread is over them", least=2)
    if weights is None:
        weights = grid_around(first_weight(policy, critic, observations))
    keys = jax.random.split(key, (batch_size("observations", observations), noises))

    def of_all(draw: Callable) -> Any:
        """Over noises at each observation."""
        return jax.jit(jax.vmap(jax.vmap(draw, (None, 0)), (0, 0)))

    flow = method("flow", steps=steps)
    plain = of_all(lambda obs, key: flow(policy, critic, obs, key))(observations, keys)
    spread = float(jnp.sqrt(jnp.mean((plain - plain.mean(1, keepdims=True)) ** 2)))
    unknown = lambda obs, action: jnp.nan  # noqa: E731
    critics = of_all(critic), of_all(unknown if judge is None else judge)
    nearest = _nearest(data, plain)
    one, rows = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], observations), []
    for given in methods:
        found = method(given, steps=steps, weight=1.0) if isinstance(given, str) else given
        if found.actor:
            raise ValueError(
                f"`{found.name}` is of the actor `{found.actor}`, which only a run has: `evaluate` "
                "plays it."
            )
        has_own = not isinstance(found.weight, float | int) or found.weight != 0
        own = [found.weight] if has_own and not isinstance(given, str) else None
        for weight in own or (weights if found.weighted else [0.0]):
            weight = float(weight) if isinstance(weight, float | int) else weight

            def draw(obs, key, weight=weight, found=found):
                return found(policy, critic, obs, key, weight=weight)

            actions = of_all(draw)(observations, keys)
            distance = float(jnp.sqrt(jnp.mean((actions - plain) ** 2))) / (spread or 1.0)
            cost = _mflop(draw, one, keys[0, 0])
            value, judged = (float(ask(observations, actions).mean()) for ask in critics)
            to_data = nearest(actions) / (spread or 1.0)
            rows.append(Seen(found.name, weight, value, judged, distance, to_data, cost))
    return SideBySide(tuple(rows))


def _mflop(draw: Callable, obs: Any, key: Key) -> float:
    """NaN where what a callback costs cannot be known."""
    try:
        return flops.count(draw, obs, key) / 1e6
    except ValueError:
        return math.nan


def _nearest(data: Any, plain: Array) -> Callable[[Array], float]:
    """Of actions, the mean distance to the nearest of the data."""
    if data is None:
        return lambda actions: math.nan
    data, action = jnp.asarray(data), plain.shape[2:]
    for_each = data.ndim == plain.ndim and len(data) == len(plain)
    if data.shape[data.ndim - len(action) :] != action or not (
        for_each or data.ndim == plain.ndim - 1
    ):
        wanted = ", ".join(["rows", *map(str, action)])
        raise ValueError(
            f"`data` must be of shape ({wanted}) for all observations, or ({len(plain)}, {wanted}) "
            f"for each, got {data.shape}."
        )
    one = jax.vmap(nearest_distance, (0, None))
    each = jax.jit(jax.vmap(one, (0, 0 if for_each else None)))
    return lambda actions: float(each(actions, data).mean())

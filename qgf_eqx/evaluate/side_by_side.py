"""Methods and weights beside each other on observations, before any episode is played."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .. import flops
from .._checks import batch_size, check_count, check_key
from .._types import Critic, Key, Obs, Policy
from ._auto import first_weight, grid_around
from .names import label, method
from .sampler import Sampler


@dataclass(frozen=True)
class Seen:
    """What a method does on the observations, at one weight. Means over observations and noises."""

    method: str
    weight: float
    value: float
    """Q of its actions, by the critic that guides."""
    judged: float
    """Q by the other critic; NaN without one."""
    distance: float
    """How far an action is from the plain flow's of the same key: root mean square over its
    numbers, in units of the plain flow's own spread."""
    mflop: float
    """Operations of an action, in millions."""


@dataclass(frozen=True)
class SideBySide:
    """Rows for people and programs: `print` it."""

    rows: tuple[Seen, ...]

    def __str__(self) -> str:
        other = any(not math.isnan(row.judged) for row in self.rows)
        judged = f"{'other critic':>14}" if other else ""
        lines = [f"{'method':<20}{'weight':>10}{'value':>12}{judged}{'distance':>10}{'MFLOP':>9}"]
        for row in self.rows:
            weight = f"{row.weight:.3g}" if row.weight else "-"
            judged = f"{row.judged:>14.4g}" if other else ""
            lines.append(
                f"{label(row.method):<20}{weight:>10}{row.value:>12.4g}{judged}"
                f"{row.distance:>10.2f}{row.mflop:>9.3g}"
            )
        unit = "Distances are in units of the plain flow's own spread at an observation."
        return "\n".join([*lines, unit])


def side_by_side(
    policy: Policy,
    critic: Critic,
    observations: Obs,
    key: Key,
    *,
    methods: Sequence[str | Sampler] = ("flow", "qgf", "best-of-4"),
    weights: Sequence[float] | None = None,
    judge: Critic | None = None,
    noises: int = 8,
    steps: int = 10,
) -> SideBySide:
    """What methods and weights do to the actions, in one table. It plays no episode, so it says how
    far a weight goes and what the critics think of it, and not whether that helps.

    ```python
    print(side_by_side(policy, critic, observations, key, judge=other))
    ```

    **Arguments:**

    - `policy`, `critic`: as for `sample`; make the critic `bounded`.
    - `observations`: a batch, along the first axis of every leaf.
    - `key`: of the noises, which all rows share.
    - `methods`: names of `names.METHODS`, or `Sampler`s.
    - `weights`: of those that take one, a row for each; by default from a tenth of
      `analysis.starting_weight` to ten times it.
    - `judge`: a critic that did not guide, such as another training seed's: a gain that it does not
      see is one that guidance has found in the first one's errors.
    - `noises`: at each observation, two or more.
    - `steps`: of the flow.

    **Raises:** `ValueError` if a method is unknown, or a count too small.
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
    one, rows = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], observations), []
    for given in methods:
        found = method(given, steps=steps, weight=1.0) if isinstance(given, str) else given
        for weight in weights if found.weighted else (0.0,):

            def draw(obs, key, weight=weight, found=found):
                return found(policy, critic, obs, key, weight=weight)

            actions = of_all(draw)(observations, keys)
            distance = float(jnp.sqrt(jnp.mean((actions - plain) ** 2))) / (spread or 1.0)
            cost = flops.count(draw, one, keys[0, 0]) / 1e6
            value, judged = (float(ask(observations, actions).mean()) for ask in critics)
            rows.append(Seen(found.name, float(weight), value, judged, distance, cost))
    return SideBySide(tuple(rows))

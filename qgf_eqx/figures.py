"""The paper's analyses, each from one function: what is computed, as plain numbers for JSON.

`plot` draws them, `qgf-eqx analyse` runs them. The example needs nothing; the others need trained
runs, of which a second one is the independent judge.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import guidance
from ._checks import check_count
from ._fields import Bounded
from ._sample import Guided, best, guided_flow
from ._types import Policy
from .analysis import gradient_cosine, value_gain
from .analytic import MixtureFlow
from .data import Dataset
from .evaluate import Task
from .evaluate._auto import FACTORS, first_weight, grid_around
from .evaluate._offline import critic_of, open_offline
from .evaluate.names import METHODS, method
from .evaluate.task import dataset_of
from .learn import Actor, Acts, Units, load_run

SHOWN = ("ood", "qgf", "qgf-jacobian", "qgf-chain", "bptt")
ESTIMATORS = {METHODS[name].label: method(name).guidance for name in SHOWN}
"""By label, all of them on the ten steps that the flow takes here."""
MODES, BEST = (1.0, 3.0, 5.0), 3.0


def example(
    *, samples: int = 4000, weights: tuple[float, ...] = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0)
) -> dict:
    """The one-dimensional example: modes at 1, 3 and 5, `Q = -(a - 3)^2`, T = 10.

    **Returns:** for each estimator the share of samples within 0.5 of 3 by weight, some paths at
    weight 1, and the guided field on a grid at weight 1.
    """
    policy, critic = _one_dimension()
    noises = jax.random.normal(jax.random.key(0), (samples,))
    times, levels = np.linspace(0, 0.98, 25), np.linspace(-3, 7, 41)
    found = {"weights": weights, "samples": samples, "t": times, "a": levels, "methods": {}}
    for name, estimator in {"flow": guidance.zero, **ESTIMATORS}.items():

        @jax.jit
        def ends(weight, estimator=estimator):
            options = {"guidance": estimator, "weight": weight}
            return jax.vmap(lambda n: guided_flow(policy, critic, None, n, **options))(noises)

        field = Guided(policy, critic, estimator, 1.0)
        grid = jax.vmap(jax.vmap(lambda a, t: field(None, a, t), (0, None)), (None, 0))  # noqa: B023
        found["methods"][name] = {
            "share": [float(np.mean(np.abs(ends(w) - BEST) < 0.5)) for w in weights],
            "paths": _paths(policy, critic, estimator, 1.0, noises[:40]),
            "field": grid(jnp.asarray(levels), jnp.asarray(times)),
        }
    return _plain(found)


def instability(*, weights: tuple[float, ...] = (1.0, 2.0, 4.0)) -> dict:
    """Back-propagation through the chain, in the one-dimensional example: each exact-Jacobian
    gradient and QGF's as a function of `a_t`, at four times; the largest slope of each; and paths
    of BPTT by weight.
    """
    policy, critic, levels = *_one_dimension(), np.linspace(-2, 6, 801)
    times = (0.0, 0.3, 0.6, 0.9)
    found = {"a": levels, "t": times, "weights": weights, "gradient": {}, "slope": {}}
    for name in ("QGF", "QGF-Jacobian", "BPTT"):
        of = jax.vmap(
            jax.vmap(partial(ESTIMATORS[name], policy, critic, None), (0, None)), (None, 0)
        )
        found["gradient"][name] = of(jnp.asarray(levels), jnp.asarray(times))
        slopes = np.diff(found["gradient"][name], axis=1) / np.diff(levels)
        found["slope"][name] = np.abs(slopes).max(axis=1)
    noises = jax.random.normal(jax.random.key(0), (60,))
    found["paths"] = [_paths(policy, critic, guidance.bptt, w, noises) for w in weights]
    found["QGF's paths"] = [_paths(policy, critic, guidance.qgf, w, noises) for w in weights]
    return _plain(found)


def _one_dimension():
    return MixtureFlow(jnp.array(MODES), 0.1), lambda obs, a: -((a - BEST) ** 2)


@eqx.filter_jit
def _paths(policy, critic, estimator, weight, noises):
    """Ten Euler steps, all points of them."""
    field = Guided(policy, critic, estimator, weight)
    step = lambda a, t: (a + field(None, a, t) / 10, a)  # noqa: E731
    end, way = jax.vmap(lambda n: jax.lax.scan(step, n, jnp.arange(10) / 10))(noises)
    return jnp.concatenate([way, end[:, None]], axis=1)


def noise(
    run: str | Path,
    data_dir: str | Path,
    *,
    count: int = 64,
    reduce: Callable = jnp.min,
    cache_dir: str | Path | None = None,
    instead: str | Path | None = None,
) -> dict:
    """Sensitivity to noise: `cos(g(a_t), g(a_t + std eps))` by estimator, noise scale and time, at
    points on the flow of validation chunks. Means over `count` points, with standard errors.
    `instead`, a file or id, is taken in place of the task's data.
    """
    check_count("count", count, "it says how many observations")
    policy, critic, task, units = _open(run, reduce)
    where: Any = {"cache_dir": cache_dir, "instead": instead}
    held_out = dataset_of(task, data_dir, split="val", **where)
    obs, actions = _draw(held_out, count, policy.action_shape)
    actions = units.from_action(actions)
    times, scales = (0.0, 0.3, 0.6, 0.9), (0.03, 0.1, 0.3)
    keys = jax.random.split(jax.random.key(0), 2 * count).reshape(2, count)
    noises = jax.vmap(lambda k: jax.random.normal(k, actions.shape[1:]))(keys[0])
    found = {"t": times, "std": scales, "count": count, "methods": {}}
    for name, estimator in ESTIMATORS.items():

        @jax.jit
        def cosines(t, std, estimator=estimator):
            def one(obs, action, start, key):
                a_t = (1 - t) * start + t * action
                options = {"std": std, "guidance": estimator}
                return gradient_cosine(policy, critic, obs, a_t, t, key, **options)

            return jax.vmap(one)(obs, actions, noises, keys[1])

        each = np.array([[cosines(t, std) for t in times] for std in scales])
        found["methods"][name] = {
            "cosine": each.mean(-1),
            "error": each.std(-1, ddof=1) / count**0.5,
        }
    return _plain(found)


def value(
    run: str | Path,
    judge: str | Path,
    data_dir: str | Path,
    *,
    count: int = 64,
    noises: int = 16,
    candidates: tuple[int, ...] = (1, 4, 16, 64),
    weights: tuple[float, ...] | None = None,
    reduce: Callable = jnp.min,
    cache_dir: str | Path | None = None,
    instead: str | Path | None = None,
) -> dict:
    """Q of the final action by estimator and weight, and of best-of-N, by the run's own critic and
    by the judge's; and the distance to the nearest of 10,000 data actions. The same for the run's
    other actors.

    All begin with the same noises: the estimators and the plain flow (the best of 1) with `noises`
    at each of `count` validation observations, best-of-N with `noises // N` groups of them (one
    group, of further noises too, where N is larger). Means over these, with standard errors over
    the observations. `instead`, a file or id, is taken in place of the task's data. Without
    `weights` they are those around the run's `analysis.starting_weight`.
    """
    for name, n in {"count": count, "noises": noises, "candidates": min(candidates)}.items():
        check_count(name, n, "it says how many")
    opened, units = open_offline(run, reduce)
    policy, critic, _, task, _ = opened
    other = critic_of(judge, opened, reduce)
    actors = _actors_of(run)
    where: Any = {"cache_dir": cache_dir, "instead": instead}
    held_out = dataset_of(task, data_dir, split="val", **where)
    obs, _ = _draw(held_out, count, policy.action_shape)
    if weights is None:
        weights = tuple(grid_around(first_weight(policy, critic, obs)))
    known = dataset_of(task, data_dir, **where)
    data = units.from_action(_draw(known, 10_000, policy.action_shape)[1])
    shape = (count, max(noises, *candidates), *policy.action_shape)
    starts = jax.random.normal(jax.random.key(0), shape)
    found = {"weights": weights, "candidates": candidates, "count": count, "noises": noises}
    found |= {"methods": {}, "best-of-N": [], "actors": {}}

    def _of_actions(actions):
        stay = lambda obs, a, t: jnp.zeros_like(a)  # noqa: E731
        return value_gain(stay, critic, other, obs, actions, data, weight=0, steps=1)

    for name, estimator in ESTIMATORS.items():
        gain = partial(value_gain, policy, critic, other, guidance=estimator)
        gain = jax.jit(lambda w, gain=gain: gain(obs, starts[:, :noises], data, weight=w))
        found["methods"][name] = [_means(gain(weight)) for weight in weights]
    for n in candidates:
        groups = max(1, noises // n)

        @jax.jit
        def of_n(n=n, groups=groups):
            def one(obs, starts):
                walk = lambda a: guided_flow(policy, critic, obs, a, weight=0)  # noqa: E731
                return best(critic, obs, jax.vmap(lambda a: critic.to_bounds(walk(a)))(starts))

            grouped = starts[:, : groups * n].reshape(count, groups, n, *starts.shape[2:])
            return _of_actions(jax.vmap(jax.vmap(one, (None, 0)))(obs, grouped))

        found["best-of-N"].append(_means(of_n()))
    keys = jax.random.split(jax.random.key(1), count * noises).reshape(count, noises)
    for name, actor in actors.items():

        @jax.jit
        def of_actor(actor=actor):
            draw = lambda obs, key: critic.to_bounds(actor.act(obs, key))  # noqa: E731
            return _of_actions(jax.vmap(jax.vmap(draw, (None, 0)))(obs, keys))

        found["actors"][name] = _means(of_actor())
    return _plain(found)


def noise_over_runs(found: Sequence[dict]) -> dict:
    """The mean of several runs' `noise`, with the standard error over the runs."""
    first, methods = found[0], {}
    for name in first["methods"]:
        each = np.array([of["methods"][name]["cosine"] for of in found])
        methods[name] = {"cosine": each.mean(0), "error": _error(each)}
    return _plain({**first, "methods": methods, "runs": len(found)})


def value_over_runs(found: Sequence[dict]) -> dict:
    """The mean of several runs' `value`, made without `weights`, with the standard error over the
    runs. Q and distances of different tasks have different scales: a value is the gain over the
    plain flow's in units of best-of-4's gain, by the same critic, and a distance is relative to the
    plain flow's. Of the actors, those that all runs have.
    """
    first = found[0]
    scaled = [_scaled(of) for of in found]
    rows = lambda *path: _mean_row([_at(of, *path) for of in scaled])  # noqa: E731
    shared = [name for name in first["actors"] if all(name in of["actors"] for of in found)]
    return _plain(
        {
            **first,
            "weights": FACTORS,
            "methods": {
                name: [rows("methods", name, i) for i in range(len(FACTORS))]
                for name in first["methods"]
            },
            "best-of-N": [rows("best-of-N", i) for i in range(len(first["candidates"]))],
            "actors": {name: rows("actors", name) for name in shared},
            "runs": len(found),
        }
    )


def _scaled(found: dict) -> dict:
    if [1, 4] != list(found["candidates"])[:2]:
        raise ValueError("`found` must have best-of-1 and best-of-4 as its first candidates.")
    plain, four = found["best-of-N"][:2]

    def row(of: dict) -> dict:
        gains = {w: (of[w] - plain[w]) / (four[w] - plain[w]) for w in ("critic", "judge")}
        return {**gains, "distance": of["distance"] / plain["distance"]}

    return {
        "methods": {name: [row(of) for of in rows] for name, rows in found["methods"].items()},
        "best-of-N": [row(of) for of in found["best-of-N"]],
        "actors": {name: row(of) for name, of in found["actors"].items()},
    }


def _at(found: Any, *path: Any) -> Any:
    for step in path:
        found = found[step]
    return found


def _mean_row(rows: Sequence[dict]) -> dict:
    found = {}
    for name in rows[0]:
        each = np.array([row[name] for row in rows])
        found |= {name: each.mean(), f"{name} error": _error(each)}
    return found


def _error(each: np.ndarray) -> Any:
    """The standard error of the mean over the first axis."""
    return each.std(axis=0, ddof=1) / len(each) ** 0.5


def _means(each: dict) -> dict:
    """Over the noises, then over the observations, with the standard error of the latter."""
    found = {}
    for name, values in each.items():
        by_obs = np.asarray(values).mean(axis=1)
        found[name] = by_obs.mean()
        found[f"{name} error"] = by_obs.std(ddof=1) / len(by_obs) ** 0.5
    return found


def _actors_of(run: str | Path) -> dict[str, Actor]:
    """Those that draw actions themselves, beside the flow."""
    found = load_run(run)
    known = found.config.actors.items()
    return {n: found.actor(n) for n, one in known if isinstance(one, Acts) and n != "flow"}


def _open(run: str | Path, reduce: Callable) -> tuple[Policy, Bounded, Task, Units]:
    (policy, critic, _, task, _), units = open_offline(run, reduce)
    return policy, critic, task, units


def _draw(data: Dataset, count: int, shape: tuple[int, ...]) -> tuple[Any, jax.Array]:
    """Observations, and the chunks of actions that begin there, evenly over whole chunks."""
    horizon = shape[0]
    starts = np.arange(len(data.episode_end) - horizon)
    ends = np.cumsum(np.concatenate([[0], np.asarray(data.episode_end)]))
    starts = starts[ends[starts + horizon] == ends[starts]]
    starts = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    actions = np.asarray(data.actions)[starts[:, None] + np.arange(horizon)]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[starts]), data.obs), jnp.asarray(actions)


def _plain(found) -> Any:
    """Arrays as lists of rounded numbers, for JSON."""
    if isinstance(found, dict):
        return {name: _plain(part) for name, part in found.items()}
    if eqx.is_array(found) or isinstance(found, np.ndarray | np.generic):
        return np.round(np.asarray(found, float), 5).tolist()
    return [_plain(part) for part in found] if isinstance(found, list | tuple) else found

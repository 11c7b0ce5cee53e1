"""Many updates in one compiled call, of one seed or of several at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Key
from ..data import Chunk, Dataset, Rows, draw_starts, make_chunk, read_rows
from ..data._chunks import played
from ..data.augment import random_crop
from ..data.goals import EpisodeEnds, GoalRows, Hindsight, last_rows, read_goal_rows
from ._config import TrainConfig
from ._devices import Devices
from ._goals import goal_chunks, goal_rows
from ._learner import Spec
from ._units import Units
from .loop import TeamState, init_team, update_team

_NOISE, _CROP = 2**30, 2**31  # of keys that are not those of the batches


def init(config: TrainConfig, spec: Spec) -> TeamState:
    """The state before the first update; a pure function of the config and the spec."""
    return init_team(config.team, spec, jax.random.key(config.seed))


def stacked(states: Sequence[TeamState]) -> TeamState:
    """The states of several seeds as one, whose arrays have a leading axis."""
    arrays = [eqx.filter(state, eqx.is_array) for state in states]
    static = eqx.filter(states[0], eqx.is_array, inverse=True)
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), static)


def one_of(state: TeamState, i: int) -> TeamState:
    """The state of one seed."""
    return jax.tree.map(lambda leaf: leaf[i] if eqx.is_array(leaf) else leaf, state)


def make_updates(
    config: TrainConfig,
    spec: Spec,
    units: Units,
    seeds: Sequence[int] | None = None,
    devices: Devices = Devices(),  # noqa: B008 (frozen)
    hindsight: Hindsight = Hindsight(),  # noqa: B008 (a tuple)
) -> Callable[..., tuple[TeamState, dict]]:
    """A compiled function `(source, state, count, first=0, sums=None) -> (state, sums)` of `count`
    updates, and the sums of their losses, onto those that are given.

    State and sums have a leading axis of seeds, see `stacked`; by default there is the one of the
    config. The source is a dataset on the device, or rows of updates, as `stream` reads them, of
    which it takes those from `first`. Any `count` is the same compiled loop, so however many
    updates are split into calls, the bits are the same. The state's and the sums' buffers are
    donated: use the returned ones. The rows are brought into the units. State and source must be on
    all of the devices, if there are several. `hindsight` says what a goal is, if the run has goals.
    """
    horizon = longest(config)
    team, seeds = config.team, [config.seed] if seeds is None else list(seeds)

    def of_seed(static: Any, last: Any, source: Any, seed: Any, arrays: Any) -> tuple[Any, dict]:
        state = eqx.combine(arrays, static)
        rows = source
        if isinstance(source, Dataset):
            length = len(source.episode_end)
            rows = _read(config, source, _drawn(config, length, last, seed, state.step))
        key = jax.random.fold_in(jax.random.key(seed), _NOISE)
        key = jax.random.fold_in(key, state.step)
        rows = devices.divided(rows)
        if isinstance(rows, GoalRows):
            chunks, short = goal_chunks(config, units, hindsight, rows)
        else:
            rows = units.rows(cropped(rows, jax.random.fold_in(key, _CROP), config))
            chunks = jax.vmap(partial(make_chunk, gamma=config.gamma))(rows)
            short = chunks
            if horizon > config.horizon:
                short = jax.vmap(partial(played, horizon=config.horizon))(chunks, rows)
        state, metrics = update_team(team, spec, state, short, key, chunks)
        return eqx.filter(state, eqx.is_array), metrics

    @partial(eqx.filter_jit, donate="all-except-first")
    def loop(given: tuple, state: TeamState, sums: dict):
        source, first, count = given
        arrays, static = eqx.partition(state, eqx.is_array)
        each = jnp.asarray(seeds, jnp.int32)
        last = None
        if config.goals and isinstance(source, Dataset):
            last = last_rows(source.episode_end)

        def one(i, carry):
            arrays, sums = carry
            if isinstance(source, Dataset):
                rows, axis = source, None
            else:
                row = partial(jax.lax.dynamic_index_in_dim, index=first + i, keepdims=False)
                rows, axis = jax.tree.map(row, source), 0
            update = partial(of_seed, static, last)
            if len(seeds) == 1:  # an axis of one costs a tenth of an update
                rows = rows if axis is None else jax.tree.map(lambda leaf: leaf[0], rows)
                found = update(rows, each[0], jax.tree.map(lambda leaf: leaf[0], arrays))
                arrays, metrics = jax.tree.map(lambda leaf: leaf[None], found)
            else:
                arrays, metrics = jax.vmap(update, (axis, 0, 0))(rows, each, arrays)
            return devices.whole((arrays, jax.tree.map(jnp.add, sums, metrics)))

        if is_slow_in_a_loop(spec):
            arrays, sums = one(0, (arrays, sums))
        else:
            arrays, sums = jax.lax.fori_loop(0, count, one, (arrays, sums))
        return eqx.combine(arrays, static), sums

    names = losses_of(config, spec)

    def updates(
        source: Dataset | Rows | GoalRows,
        state: TeamState,
        count: int,
        first: int = 0,
        sums: dict | None = None,
    ) -> tuple[TeamState, dict]:
        if sums is None:
            zeros: dict = {name: jnp.zeros(len(seeds)) for name in names}
            sums = devices.everywhere(zeros)
        calls = [(first, count)]
        if is_slow_in_a_loop(spec):
            calls = [(i, 1) for i in range(first, first + count)]
        for start, n in calls:
            state, sums = loop((source, jnp.int32(start), jnp.int32(n)), state, sums)  # type: ignore[arg-type]
        return state, sums  # type: ignore[return-value]

    return updates


def _drawn(config: TrainConfig, rows: int, last: Any, seed: Any, step: Any) -> tuple:
    """Where the chunks of an update start; and in a run with goals the rows of those."""
    starts = draw_starts(seed, step, batch=config.batch, rows=rows)
    if not config.goals:
        return (starts,)
    return starts, *goal_rows(config, seed, step, starts, last[starts], rows)


def _read(config: TrainConfig, dataset: Dataset, found: tuple) -> Any:
    if not config.goals:
        (starts,) = found
        return read_rows(dataset, starts, longest(config))
    starts, critics, actors = found
    return read_goal_rows(dataset, starts, critics, actors, longest(config))


def losses_of(config: TrainConfig, spec: Spec) -> list[str]:
    """The names of all losses of a run, as `name/loss`; nothing is computed."""
    numbers: Any = config.batch, longest(config), spec.action_shape[1]
    kind = jnp.float32
    row = jax.ShapeDtypeStruct((config.batch, spec.obs_size), kind)
    pictures = [jax.ShapeDtypeStruct((config.batch, *shape), kind) for shape in spec.pictures]
    obs = (row, *pictures) if pictures else row
    scalar, action = jax.ShapeDtypeStruct(numbers[:1], kind), jax.ShapeDtypeStruct(numbers, kind)
    fields: Any = obs, action, scalar, scalar, obs, scalar, scalar

    def one(chunks):
        state, key = init(config, spec), jax.random.key(0)
        short = chunks._replace(action=chunks.action[:, : config.horizon])
        return update_team(config.team, spec, state, short, key, chunks)[1]

    return list(eqx.filter_eval_shape(one, Chunk(*fields)))


def longest(config: TrainConfig) -> int:
    """The steps of the critic's chunks: the config's, or more if it looks further ahead."""
    return max(config.horizon, getattr(config.critic, "backup", 0))


def is_slow_in_a_loop(spec: Spec) -> bool:
    """A convolution in a compiled loop takes ten times as long on a CPU (jax-ml/jax#12868)."""
    return bool(spec.pictures) and jax.default_backend() == "cpu"


def cropped(rows: Rows, key: Key, config: TrainConfig) -> Rows:
    """A batch's rows, the pictures of each chunk shifted by one random crop, if there are some."""
    if not isinstance(rows.obs, tuple) or not config.crop:
        return rows
    keys = jax.random.split(key, config.batch)
    crop = jax.vmap(lambda obs, k: random_crop(obs, k, pixels=config.crop))
    obs, next_obs = crop((rows.obs, rows.next_obs), keys)
    return rows._replace(obs=obs, next_obs=next_obs)


def stream(
    dataset: Dataset,
    config: TrainConfig,
    calls: Iterable[tuple[int, int]],
    seeds: Sequence[int] | None = None,
) -> Iterator[Any]:
    """The rows of some updates at a time, read from memory-mapped files by a thread that is one
    such call ahead. The batches are those that a dataset on the device would give.

    **Arguments:**

    - `dataset`: its arrays, in memory or memory-mapped.
    - `config`: of the run.
    - `calls`: the first update of each call, and how many it makes.
    - `seeds`: of the second axis; by default the one of the config.
    """
    rows = len(dataset.episode_end)
    each = jnp.asarray([config.seed] if seeds is None else list(seeds), jnp.int32)
    last = EpisodeEnds(dataset.episode_end) if config.goals else None
    one = partial(_drawn, config, rows, last)
    draw = jax.vmap(lambda step: jax.vmap(lambda seed: one(seed, step))(each))

    def read(first: int, count: int) -> Any:
        found = jax.tree.map(np.asarray, draw(jnp.arange(first, first + count, dtype=jnp.int32)))
        return jax.tree.map(jnp.asarray, _read(config, dataset, found))

    with ThreadPoolExecutor(1) as thread:
        ahead: deque = deque()
        for call in calls:
            ahead.append(thread.submit(read, *call))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        for last in ahead:
            yield last.result()

"""Training of the flow, the critic and the value, on a dataset on the device or in its files.

One compiled call makes many updates, in seconds: indices are drawn in the graph, and the batch of
update n is a pure function of (seed, n). A dataset larger than memory is streamed from its files
instead, with the same batches. A run is a folder with `config.json`, `metrics.jsonl` and
`checkpoint.safetensors`; started again, it goes on where it was, bit for bit.
"""

import dataclasses
import itertools
import json
import math
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import checkpoint, objectives
from ._checks import check_count
from ._files import write_atomically
from ._progress import bar
from ._run_folder import MetricsLog, alone_in, termination_flag
from ._run_folder import RunError as RunError
from ._run_folder import read_metrics as read_metrics
from ._train_config import TrainConfig as TrainConfig
from ._train_config import read_config as read_config
from ._train_config import refuse_other
from ._types import Key
from ._units import Part, RealObs, Spec, blank_units, fit_units, has_units, join_obs
from ._units import Units as Units
from .checkpoint import CheckpointError
from .data import (
    Chunk,
    Dataset,
    Rows,
    check_horizon,
    draw_starts,
    make_chunk,
    read_rows,
    time_limit_masks,
)
from .data._fingerprint import differing, fingerprint
from .data.augment import random_crop
from .nn import (
    CriticMLP,
    Encoded,
    Ensemble,
    ObsEncoder,
    PictureShape,
    ValueMLP,
    VelocityMLP,
    low_frequency_time,
    paper_time,
)

try:
    import optax
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.train needs Optax ({error}): pip install 'qgf_eqx[train]'"
    ) from error


class Nets(eqx.Module):
    """The four networks of a run."""

    policy: VelocityMLP | Encoded
    critic: Ensemble
    value: ValueMLP | Encoded
    target: Ensemble
    """The moving average of `critic`: the one that guides."""


def make_nets(
    config: TrainConfig,
    obs_size: int,
    action_size: int,
    key: Key,
    pictures: tuple[PictureShape, ...] = (),
) -> Nets:
    """Fresh networks of the config's sizes; an action is a chunk `(horizon, action_size)`. With
    pictures, each network has encoders of its own, and an observation is a tuple of `obs_size`
    numbers and the pictures."""
    policy_key, critic_key, value_key = jax.random.split(key, 3)
    shape = (config.horizon, action_size)
    size = {"width": config.width, "depth": config.depth}
    embed = paper_time if config.paper_time else low_frequency_time

    def encoded(make: Callable, key: Key) -> Any:
        if not pictures:
            return make(obs_size, key=key)
        key, encoder_key = jax.random.split(key)
        encoder = ObsEncoder(obs_size, pictures, features=config.features, key=encoder_key)
        return Encoded(encoder, make(encoder.size, key=key))

    make_critic = partial(CriticMLP, action_shape=shape, **size)
    critic = Ensemble(lambda k: encoded(make_critic, k), config.critics, key=critic_key)
    return Nets(
        policy=encoded(partial(VelocityMLP, action_shape=shape, embed=embed, **size), policy_key),
        critic=critic,
        value=encoded(partial(ValueMLP, **size), value_key),
        target=jax.tree.map(lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, critic),
    )


class State(NamedTuple):
    """All that an update changes."""

    nets: Nets
    optimizer: Any
    step: jax.Array


class _NormalisedState(NamedTuple):
    """What is saved of a run that has units."""

    nets: Nets
    optimizer: Any
    step: jax.Array
    units: Units


def _with(units: Units, state: State) -> _NormalisedState:
    return _NormalisedState(state.nets, state.optimizer, state.step, units)


def init(
    config: TrainConfig,
    obs_size: int,
    action_size: int,
    pictures: tuple[PictureShape, ...] = (),
) -> State:
    """The state before the first update; a pure function of the config and the sizes."""
    key = jax.random.key(config.seed)
    nets = make_nets(config, obs_size, action_size, key, pictures)
    trained = eqx.filter(_trained(nets), eqx.is_inexact_array)
    return State(nets, optax.adam(config.learning_rate).init(trained), jnp.zeros((), jnp.int32))


LOSSES = ("flow_loss", "critic_loss", "value_loss")
"""The names of what `losses` gives."""


def losses(
    trained: tuple, target: Ensemble, chunk: Chunk, key: Key, config: TrainConfig
) -> dict[str, jax.Array]:
    """The three losses on one chunk; each differentiates one of `(policy, critic, value)`."""
    policy, critic, value = trained
    time = partial(objectives.grid_time, steps=10) if config.paper_time else objectives.uniform_time

    obs, action, reward, discount, next_obs, _ = chunk

    def critic_loss(member):
        return objectives.iql_critic(member, value, obs, action, reward, discount, next_obs)

    each = {
        "flow_loss": objectives.flow_matching(policy, obs, action, key, time=time),
        "critic_loss": sum(map(critic_loss, critic.members)) / len(critic.members),
        "value_loss": objectives.iql_value(value, target, obs, action, expectile=config.expectile),
    }
    return {name: chunk.weight * loss for name, loss in each.items()}


def update(state: State, chunks: Chunk, key: Key, config: TrainConfig) -> tuple[State, dict]:
    """One gradient step on a batch of chunks: all gradients first, then the target's average."""
    nets, target = state.nets, state.nets.target
    keys = jax.random.split(key, len(chunks.weight))

    @partial(eqx.filter_value_and_grad, has_aux=True)
    def loss(trained):
        batch = jax.vmap(lambda chunk, k: losses(trained, target, chunk, k, config))(chunks, keys)
        means = {name: jnp.mean(values) for name, values in batch.items()}
        return sum(means.values()), means

    trained = _trained(nets)
    (_, metrics), gradients = loss(trained)
    optimizer = optax.adam(config.learning_rate)
    changes, optimizer_state = optimizer.update(gradients, state.optimizer)
    policy, critic, value = eqx.apply_updates(trained, changes)
    target = objectives.polyak(target, critic, config.ema_rate)
    return State(Nets(policy, critic, value, target), optimizer_state, state.step + 1), metrics


def make_updates(
    config: TrainConfig, units: Units | None = None
) -> Callable[..., tuple[State, dict]]:
    """A compiled function `(source, state, count, first=0, sums=None) -> (state, sums)` of `count`
    updates, and the sums of their losses, onto those that are given.

    The source is a dataset on the device, or rows of updates, as `stream` reads them, of which it
    takes those from `first`. Any `count` is the same compiled loop, so however many updates are
    split into calls, the bits are the same. The state's and the sums' buffers are donated: use the
    returned ones. The rows are brought into the units, if there are some.
    """

    @partial(eqx.filter_jit, donate="all-except-first")
    def loop(given: tuple, state: State, sums: dict):
        source, first, count = given
        arrays, static = eqx.partition(state, eqx.is_array)

        def one(i, carry):
            arrays, sums = carry
            state = eqx.combine(arrays, static)
            if isinstance(source, Dataset):
                length = len(source.episode_end)
                starts = draw_starts(config.seed, state.step, batch=config.batch, rows=length)
                rows = read_rows(source, starts, config.horizon)
            else:
                row = partial(jax.lax.dynamic_index_in_dim, index=first + i, keepdims=False)
                rows = jax.tree.map(row, source)
            key = jax.random.fold_in(jax.random.key(config.seed + 2**31), state.step)
            rows = _cropped(rows, jax.random.fold_in(key, 2**31), config)
            rows = rows if units is None else units.rows(rows)
            chunks = jax.vmap(partial(make_chunk, gamma=config.gamma))(rows)
            state, metrics = update(state, chunks, key, config)
            return eqx.filter(state, eqx.is_array), jax.tree.map(jnp.add, sums, metrics)

        if _is_slow_in_a_loop(state):
            arrays, sums = one(0, (arrays, sums))
        else:
            arrays, sums = jax.lax.fori_loop(0, count, one, (arrays, sums))
        return eqx.combine(arrays, static), sums

    def updates(
        source: Dataset | Rows, state: State, count: int, first: int = 0, sums: dict | None = None
    ) -> tuple[State, dict]:
        sums = {name: jnp.zeros(()) for name in LOSSES} if sums is None else sums
        if not _is_slow_in_a_loop(state):
            return loop((source, jnp.int32(first), jnp.int32(count)), state, sums)
        for i in range(first, first + count):
            state, sums = loop((source, jnp.int32(i), jnp.int32(1)), state, sums)
        return state, sums

    return updates


def _is_slow_in_a_loop(state: State) -> bool:
    """A convolution in a compiled loop takes ten times as long on a CPU (jax-ml/jax#12868)."""
    return isinstance(state.nets.policy, Encoded) and jax.default_backend() == "cpu"


def _cropped(rows: Rows, key: Key, config: TrainConfig) -> Rows:
    """A batch's rows, the pictures of each chunk shifted by one random crop, if there are some."""
    if not isinstance(rows.obs, tuple) or not config.crop:
        return rows
    keys = jax.random.split(key, config.batch)
    crop = jax.vmap(lambda obs, k: random_crop(obs, k, pixels=config.crop))
    obs, next_obs = crop((rows.obs, rows.next_obs), keys)
    return rows._replace(obs=obs, next_obs=next_obs)


def stream(
    dataset: Dataset, config: TrainConfig, calls: Iterable[tuple[int, int]]
) -> Iterator[Rows]:
    """The rows of some updates at a time, read from memory-mapped files by a thread that is one
    such call ahead. The batches are those that a dataset on the device would give.

    **Arguments:**

    - `dataset`: its arrays, in memory or memory-mapped.
    - `config`: of the run.
    - `calls`: the first update of each call, and how many it makes.
    """
    rows = len(dataset.episode_end)
    draw = jax.vmap(lambda step: draw_starts(config.seed, step, batch=config.batch, rows=rows))

    def read(first: int, count: int) -> Rows:
        starts = np.asarray(draw(jnp.arange(first, first + count, dtype=jnp.int32)))
        return jax.tree.map(jnp.asarray, read_rows(dataset, starts, config.horizon))

    with ThreadPoolExecutor(1) as thread:
        ahead: deque = deque()
        for call in calls:
            ahead.append(thread.submit(read, *call))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        for last in ahead:
            yield last.result()


def _lines(done: int, total: int, updates_per_line: int, save_every: int):
    """The first update of every line of metrics, how many it has, and whether to save after it."""
    saved = done
    while done < total:
        due = min(saved + save_every, total)
        count = min(updates_per_line, due - done)
        yield done, count, done + count == due
        done += count
        saved = due if done == due else saved


SECONDS = 5.0
"""About how long one compiled call may take: so long SIGTERM waits at most."""


def _next_count(count: int, seconds: float) -> int:
    """How many updates the next call makes, if `count` of them took so long."""
    return max(1, count // 2) if seconds > SECONDS else count * (1 + (seconds < SECONDS / 2))


def train(
    config: TrainConfig,
    dataset: Dataset,
    run_dir: str | Path,
    *,
    updates_per_call: int = 500,
    save_every: int = 10_000,
    streamed: bool = False,
    progress: bool = True,
    position: int = 0,
) -> Path:
    """Trains to `config.updates`, from the folder's checkpoint if there is one.

    **Arguments:**

    - `config`: what to train.
    - `dataset`: the data, which are moved to the device. Observations that are a dict or another
      PyTree are laid end to end first, a copy in memory, but for pictures (bytes of
      height, width and channels): every network has an encoder of its own for each.
    - `run_dir`: the run's folder, made if it is not there.
    - `updates_per_call`: how many updates a line of metrics is the mean of. One compiled call
      makes them, or several calls of seconds where updates are slow; no bit depends on it.
    - `save_every`: a kill costs at most this many updates.
    - `streamed`: leave the data in their memory-mapped files, for datasets larger than memory, and
      read the chunks of two lines at a time. Changes no bit of the result.
    - `progress`, `position`: of the progress bar.

    **Returns:** the path of the checkpoint.

    **Raises:** `RunError` if the folder or its checkpoint belongs to another config, other data or
    another process, if a file cannot be written, or if training diverges, and then what was saved
    before is kept; `CheckpointError` if the checkpoint is damaged; `DatasetError` if the data make
    no chunk, or pictures with their channels first. On SIGTERM it saves and exits with 0, after
    some seconds. A checkpoint of an older version does not say what it was trained on: training
    goes on, with a warning.
    """
    check_horizon(dataset, config.horizon)
    check_count("updates_per_call", updates_per_call, "it counts updates")
    check_count("save_every", save_every, "it counts updates")
    run_dir = Path(run_dir)
    with alone_in(run_dir), termination_flag() as terminated:
        path = run_dir / "checkpoint.safetensors"
        metadata = {"config": dataclasses.asdict(config), "data": fingerprint(dataset)}
        dataset, spec = join_obs(dataset)
        metadata |= {"obs": spec.layout} if spec.layout else {}
        state, units = _first_state(path, config, metadata, dataset, spec)
        _claim(run_dir / "config.json", config)
        done = saved = int(state.step)
        log = MetricsLog(run_dir / "metrics.jsonl", done)
        if config.time_limit_masks:
            dataset = time_limit_masks(dataset)
        lines = list(_lines(done, config.updates, updates_per_call, save_every))
        if streamed:
            sources: Iterable = stream(dataset, config, [line[:2] for line in lines])
        else:
            sources = itertools.repeat(jax.tree.map(jnp.asarray, dataset))
        updates = make_updates(config) if units is None else make_updates(config, units)
        shown = bar(
            config.updates,
            f"train seed {config.seed}",
            "updates",
            show=progress,
            initial=done,
            position=position,
        )
        per_call = 1
        with shown:
            for (first, count, due), source in zip(lines, sources, strict=False):
                sums, started = None, time.perf_counter()
                while done < first + count and not terminated:
                    n, called = min(per_call, first + count - done), time.perf_counter()
                    state, sums = updates(source, state, n, done - first, sums)
                    jax.block_until_ready(sums)
                    if n == per_call:
                        per_call = _next_count(n, time.perf_counter() - called)
                    done += n
                    shown.update(n)
                if sums is not None:
                    metrics = {name: float(total) / (done - first) for name, total in sums.items()}
                    if not all(map(math.isfinite, metrics.values())):
                        raise RunError(_DIVERGED.format(done, metrics))
                    rate = round((done - first) / (time.perf_counter() - started), 1)
                    log.append({"step": done, **metrics, "updates_per_second": rate})
                if done > saved and (due or terminated):
                    if not _is_finite(state):
                        raise RunError(_DIVERGED.format(done, "a parameter is not finite"))
                    saving = state if units is None else _with(units, state)
                    checkpoint.save(path, saving, {**metadata, "step": done})
                    saved = done
                if terminated:
                    said = f"{run_dir}: saved at update {done:,} of {config.updates:,}."
                    print(f"{said} The same command goes on.", file=sys.stderr)
                    raise SystemExit(0)
    return path


_DIVERGED = (
    "training diverged before update {}: {}. What was saved before it is intact; try a lower "
    "learning rate, in another folder."
)


@eqx.filter_jit
def _is_finite(state: State) -> jax.Array:
    """Whether every parameter, and every number that the optimiser keeps, is finite."""
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _first_state(
    path: Path, config: TrainConfig, metadata: dict, dataset: Dataset, spec: Spec
) -> tuple[State, Units | None]:
    """The state of the folder's checkpoint, if it is of this config and data, or a new one; and
    the units, which are of the checkpoint too."""
    if not path.exists():
        units = fit_units(config, dataset) if has_units(config) else None
        return init(config, *spec.sizes), units
    found = checkpoint.read_metadata(path)
    refuse_other(path, read_config(found.get("config"), path), config)
    data = found.get("data")
    if data is None:
        warnings.warn(
            f"{path} was saved by an older version, which did not record its data: training goes "
            "on, and whether they are the same data is not checked.",
            stacklevel=3,
        )
    elif fields := differing(data, metadata["data"]):
        raise RunError(
            f"{path} was trained on other data: {', '.join(f'`{n}`' for n in fields)} differ. "
            "Choose another folder, or delete it to start over."
        )
    state, units = _load(path, config, spec)
    if not _is_finite(state):
        raise RunError(f"{path} is of a run that diverged. Delete its folder to start over.")
    if state.step > config.updates:
        raise RunError(
            f"{path} has made {state.step} updates, more than `updates` {config.updates}. Choose "
            "another folder, or ask for as many."
        )
    return state, units


def _load(path: Path, config: TrainConfig, spec: Spec) -> tuple[State, Units | None]:
    """What a checkpoint holds.

    **Raises:** `CheckpointError` if the config names a normaliser whose arrays are not there.
    """
    like = eqx.filter_eval_shape(init, config, *spec.sizes)
    if not has_units(config):
        return checkpoint.load(path, like)[0], None
    blank = blank_units(config, spec)
    nets, optimizer, step, units = checkpoint.load(path, _with(blank, like))[0]
    return State(nets, optimizer, step), units


def _claim(path: Path, config: TrainConfig) -> None:
    """Writes `config.json`, or checks that the folder's is the same."""
    if path.exists():
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise RunError(
                f"{path} is not JSON ({error}). Delete the folder to start over."
            ) from None
        refuse_other(path, read_config(found, path), config)
    with write_atomically(path) as file:
        file.write(json.dumps(dataclasses.asdict(config), indent=1).encode())


def load_config(run_dir: str | Path) -> tuple[TrainConfig, int | None]:
    """The config of a run, and how many updates its checkpoint has made (`None` if an older version
    saved it), without its networks.

    **Raises:** as `load_nets`.
    """
    path = Path(run_dir) / "checkpoint.safetensors"
    found = checkpoint.read_metadata(path)
    step = found.get("step")
    return read_config(found.get("config"), path), step if type(step) is int else None


def load_nets(run_dir: str | Path) -> tuple[Nets, TrainConfig]:
    """The networks of a run and its config, from its folder.

    The networks take real observations, as they are in the data: dicts and other PyTrees are laid
    end to end, and normalised, if the run does. Actions are in the
    flow's units, whose noise has size one: `load_units` brings them to the environment's.

    **Raises:** `CheckpointError` if there is no intact checkpoint of a finished update.
    """
    nets, units, config, layout = _read_run(run_dir)
    if not layout and (units is None or units.obs is None):
        return nets, config
    real = partial(Encoded, RealObs(units and units.obs, layout))
    return eqx.tree_at(
        lambda n: (n.policy, n.value, n.critic.members, n.target.members),
        nets,
        (
            real(nets.policy),
            real(nets.value),
            tuple(map(real, nets.critic.members)),
            tuple(map(real, nets.target.members)),
        ),
    ), config


def _layout(path: Path) -> tuple[Part, ...]:
    try:
        return _parts(checkpoint.read_metadata(path).get("obs", ()))
    except (TypeError, ValueError):
        raise CheckpointError(f"{path} does not say how its observations are laid out.") from None


def _parts(found: Iterable) -> tuple[Part, ...]:
    return tuple(
        Part(str(place), tuple(map(int, shape)), *map(bool, is_picture))
        for place, shape, *is_picture in found  # an older version had no pictures
    )


def load_units(run_dir: str | Path) -> Units:
    """The units of a run: `to_action` brings what its policy makes to the environment's actions,
    `from_action` the environment's actions to what its critic takes.

    **Raises:** as `load_nets`.
    """
    return _read_run(run_dir)[1] or Units(None, None)


def _read_run(
    run_dir: str | Path,
) -> tuple[Nets, Units | None, TrainConfig, tuple[Part, ...]]:
    path, config = Path(run_dir) / "checkpoint.safetensors", load_config(run_dir)[0]
    layout, sizes = _layout(path), checkpoint.shapes(path)
    pictures = sum(part.picture for part in layout)
    net = ".net" if pictures else ""  # behind its encoder
    try:
        obs_size = sizes[f".nets.value{net}.mlp.layers[0].weight"][-1] - pictures * config.features
        action_size = sizes[f".nets.policy{net}.mlp.head.weight"][0] // config.horizon
    except LookupError:
        raise CheckpointError(f"{path} does not hold the networks of a training run.") from None
    state, units = _load(path, config, Spec(obs_size, action_size, layout))
    return state.nets, units, config, layout


def _trained(nets: Nets) -> tuple:
    return nets.policy, nets.critic, nets.value

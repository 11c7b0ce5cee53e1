"""Training of the flow, the critic and the value, on a dataset on the device or in its files.

One compiled call makes many updates: indices are drawn in the graph, and the batch of update n
is a pure function of (seed, n). A dataset larger than memory is streamed from its files instead,
with the same batches. A run is a folder with `config.json`, `metrics.jsonl` and
`checkpoint.safetensors`; started again, it goes on where it was, bit for bit.
"""

import dataclasses
import itertools
import json
import time
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
from tqdm import tqdm

from . import checkpoint, objectives
from ._denoise import check_count
from ._files import write_atomically
from ._run_folder import MetricsLog, alone_in, termination_flag
from ._run_folder import RunError as RunError
from ._run_folder import read_metrics as read_metrics
from ._types import Key
from .datasets import (
    Chunk,
    Dataset,
    Rows,
    check_horizon,
    draw_starts,
    make_chunk,
    read_rows,
    time_limit_masks,
)
from .nn import CriticMLP, Ensemble, ValueMLP, VelocityMLP, low_frequency_time, paper_time

try:
    import optax
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.train needs Optax ({error}): pip install 'qgf_eqx[train]'"
    ) from error


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a run is made of. The defaults are the paper's where it names them."""

    env: str
    """The task, say `cube-single-play-singletask-task2-v0`."""
    updates: int = 500_000
    """Gradient steps."""
    batch: int = 1024
    """Chunks per gradient step."""
    horizon: int = 5
    """H, the actions per chunk."""
    width: int = 1024
    """Of the hidden layers of all networks."""
    depth: int = 4
    """Hidden layers of all networks."""
    critics: int = 2
    """Members of the critic's ensemble, which is reduced by its minimum."""
    gamma: float = 0.999
    """The discount of one environment step."""
    tau: float = 0.9
    """The expectile of the value loss."""
    ema_rate: float = 0.005
    """How fast the target critic follows the critic."""
    learning_rate: float = 3e-4
    """Of Adam."""
    seed: int = 0
    """Of the parameters, the batches and the noise."""
    paper_time: bool = False
    """The paper's time embedding and time grid, for parity: ties the flow to T = 10."""
    time_limit_masks: bool = False
    """The authors' masks for their 100M data, for parity: success does not stop the bootstrap."""

    def __post_init__(self):
        for name in ("updates", "batch", "horizon", "width", "depth", "critics"):
            if getattr(self, name) < 1:
                raise RunError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("gamma", "tau", "ema_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise RunError(f"`{name}` must be in (0, 1], got {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise RunError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if not 0 <= self.seed < 2**31:
            raise RunError(f"`seed` must be in [0, 2^31), got {self.seed}.")


class Nets(eqx.Module):
    """The four networks of a run."""

    policy: VelocityMLP
    critic: Ensemble
    value: ValueMLP
    target: Ensemble
    """The moving average of `critic`: the one that guides."""


def make_nets(config: TrainConfig, obs_size: int, action_size: int, key: Key) -> Nets:
    """Fresh networks of the config's sizes; an action is a chunk `(horizon, action_size)`."""
    policy_key, critic_key, value_key = jax.random.split(key, 3)
    shape = (config.horizon, action_size)
    size = {"width": config.width, "depth": config.depth}
    embed = paper_time if config.paper_time else low_frequency_time
    critic = Ensemble(
        lambda k: CriticMLP(obs_size, shape, **size, key=k), config.critics, key=critic_key
    )
    return Nets(
        policy=VelocityMLP(obs_size, shape, **size, embed=embed, key=policy_key),
        critic=critic,
        value=ValueMLP(obs_size, **size, key=value_key),
        target=jax.tree.map(lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, critic),
    )


class State(NamedTuple):
    """All that an update changes."""

    nets: Nets
    optimizer: Any
    step: jax.Array


def init(config: TrainConfig, obs_size: int, action_size: int) -> State:
    """The state before the first update; a pure function of the config."""
    nets = make_nets(config, obs_size, action_size, jax.random.key(config.seed))
    trained = eqx.filter(_trained(nets), eqx.is_inexact_array)
    return State(nets, optax.adam(config.learning_rate).init(trained), jnp.zeros((), jnp.int32))


def losses(
    trained: tuple, target: Ensemble, chunk: Chunk, key: Key, config: TrainConfig
) -> dict[str, jax.Array]:
    """The three losses on one chunk; each differentiates one of `(policy, critic, value)`."""
    policy, critic, value = trained
    time = partial(objectives.grid_time, steps=10) if config.paper_time else objectives.uniform_time

    def critic_loss(member):
        obs, action, reward, discount, next_obs, _ = chunk
        return objectives.iql_critic(member, value, obs, action, reward, discount, next_obs)

    each = {
        "flow_loss": objectives.flow_matching(policy, chunk.obs, chunk.action, key, time=time),
        "critic_loss": sum(map(critic_loss, critic.members)) / len(critic.members),
        "value_loss": objectives.iql_value(value, target, chunk.obs, chunk.action, tau=config.tau),
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


def make_updates(config: TrainConfig) -> Callable[[Dataset | Rows, State, int], tuple[State, dict]]:
    """A compiled function `(source, state, count) -> (state, mean metrics)` of `count` updates.

    The source is a dataset on the device, or the rows of all the updates, as `stream` reads them.
    The state's buffers are donated: use the returned one.
    """

    @partial(eqx.filter_jit, donate="all-except-first")
    def updates(source: Dataset | Rows, state: State, count: int):
        arrays, static = eqx.partition(state, eqx.is_array)

        def one(arrays, rows):
            state = eqx.combine(arrays, static)
            if isinstance(source, Dataset):
                length = len(source.terminals)
                starts = draw_starts(config.seed, state.step, batch=config.batch, rows=length)
                rows = read_rows(source, starts, config.horizon)
            chunks = jax.vmap(partial(make_chunk, gamma=config.gamma))(rows)
            key = jax.random.fold_in(jax.random.key(config.seed + 2**31), state.step)
            state, metrics = update(state, chunks, key, config)
            return eqx.filter(state, eqx.is_array), metrics

        each = source if isinstance(source, Rows) else None
        arrays, metrics = jax.lax.scan(one, arrays, each, length=count)
        return eqx.combine(arrays, static), jax.tree.map(jnp.mean, metrics)

    return updates


def stream(
    dataset: Dataset, config: TrainConfig, calls: Iterable[tuple[int, int]]
) -> Iterator[Rows]:
    """The rows of each call's updates, read from memory-mapped files by a thread that is one call
    ahead. The batches are those that a dataset on the device would give.

    **Arguments:**

    - `dataset`: its arrays, in memory or memory-mapped.
    - `config`: of the run.
    - `calls`: the first update of each call, and how many it makes.
    """
    rows = len(dataset.terminals)
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


def _calls(done: int, total: int, updates_per_call: int, save_every: int):
    """The first update of every call, how many it makes, and whether to save after it."""
    saved = done
    while done < total:
        due = min(saved + save_every, total)
        count = min(updates_per_call, due - done)
        yield done, count, done + count == due
        done += count
        saved = due if done == due else saved


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
    - `dataset`: the data, which are moved to the device.
    - `run_dir`: the run's folder, made if it is not there.
    - `updates_per_call`: how many updates one compiled call makes.
    - `save_every`: a kill costs at most this many updates.
    - `streamed`: leave the data in their memory-mapped files, for datasets larger than memory, and
      read the chunks of two calls at a time. Changes no bit of the result.
    - `progress`, `position`: of the progress bar.

    **Returns:** the path of the checkpoint.

    **Raises:** `RunError` if the folder belongs to another config or another process;
    `CheckpointError` if its checkpoint is damaged. On SIGTERM it saves and exits with 0.
    """
    check_horizon(dataset, config.horizon)
    check_count("updates_per_call", updates_per_call, "it sets the length of the scan")
    check_count("save_every", save_every, "it counts updates")
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with alone_in(run_dir), termination_flag() as terminated:
        _claim(run_dir, config)
        path = run_dir / "checkpoint.safetensors"
        state = init(config, dataset.observations.shape[1], dataset.actions.shape[1])
        if path.exists():
            state, _ = checkpoint.load(path, state)
        done = int(state.step)
        log = MetricsLog(run_dir / "metrics.jsonl", done)
        if config.time_limit_masks:
            dataset = time_limit_masks(dataset)
        calls = list(_calls(done, config.updates, updates_per_call, save_every))
        if streamed:
            sources: Iterable = stream(dataset, config, [call[:2] for call in calls])
        else:
            sources = itertools.repeat(jax.tree.map(jnp.asarray, dataset))
        updates = make_updates(config)
        bar = tqdm(
            total=config.updates,
            initial=done,
            desc=f"train seed {config.seed}",
            unit=" updates",
            disable=None if progress else True,
            position=position,
        )
        with bar:
            for (_, count, due), source in zip(calls, sources, strict=False):
                started = time.perf_counter()
                state, metrics = updates(source, state, count)
                metrics = {name: float(value) for name, value in metrics.items()}
                if not all(map(np.isfinite, metrics.values())):
                    raise RunError(
                        f"training diverged before update {done + count}: {metrics}. The last "
                        "checkpoint, if there is one, is intact; try a lower learning rate."
                    )
                done += count
                rate = count / (time.perf_counter() - started)
                log.append({"step": done, **metrics, "updates_per_second": round(rate, 1)})
                bar.update(count)
                if due or terminated:
                    checkpoint.save(path, state, {"config": dataclasses.asdict(config)})
                if terminated:
                    raise SystemExit(0)
    return path


def load_nets(run_dir: str | Path) -> tuple[Nets, TrainConfig]:
    """The networks of a run and its config, from its folder.

    **Raises:** `CheckpointError` if there is no intact checkpoint of a finished update.
    """
    path = Path(run_dir) / "checkpoint.safetensors"
    config = read_config(checkpoint.read_metadata(path).get("config"), path)
    sizes = checkpoint.shapes(path)
    obs_size = sizes[".nets.value.mlp.layers[0].weight"][-1]
    action_size = sizes[".nets.policy.mlp.head.weight"][0] // config.horizon
    like = eqx.filter_eval_shape(init, config, obs_size, action_size)
    state, _ = checkpoint.load(path, like)
    return state.nets, config


def read_config(found: Any, source: str | Path) -> TrainConfig:
    """A `TrainConfig` from what JSON holds.

    **Raises:** `RunError` naming the source and the key that is unknown, missing or of a wrong
    type.
    """
    types = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    if not isinstance(found, dict):
        raise RunError(f"{source} holds no config.")
    for name, value in found.items():
        if name not in types:
            raise RunError(
                f"{source} has an unknown setting `{name}`; known are {', '.join(types)}."
            )
        if type(value) is not types[name] and not (types[name] is float and type(value) is int):
            raise RunError(
                f"{source}: `{name}` must be {types[name].__name__}, got {value!r}."  # type: ignore[union-attr]
            )
    if "env" not in found:
        raise RunError(f"{source} does not name its `env`.")
    return TrainConfig(**found)


def _trained(nets: Nets) -> tuple:
    return nets.policy, nets.critic, nets.value


def _claim(run_dir: Path, config: TrainConfig) -> None:
    """Writes `config.json`, or checks that the folder's is the same."""
    path = run_dir / "config.json"
    wanted = dataclasses.asdict(config)
    if path.exists():
        try:
            found = dataclasses.asdict(read_config(json.loads(path.read_text()), path))
        except json.JSONDecodeError as error:
            raise RunError(
                f"{path} is no JSON ({error}). Delete the folder to start over."
            ) from None
        differing = {n for n in wanted if found[n] != wanted[n]} - {"updates"}
        if differing:
            changes = ", ".join(f"`{n}` {found[n]!r} -> {wanted[n]!r}" for n in sorted(differing))
            raise RunError(
                f"{run_dir} holds a run with other settings: {changes}. Choose another folder, or "
                "delete it to start over."
            )
    with write_atomically(path) as file:
        file.write(json.dumps(wanted, indent=1).encode())

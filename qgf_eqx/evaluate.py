"""Roll-outs on OGBench's environments, and success rates with their intervals.

Several environments advance in lock-step with one batched call of the policy, in several
processes. Every episode is numbered; its number seeds its environment and its noise, so that
methods are compared on the same episodes, and tuning and reporting use different ones.
"""

import dataclasses
import functools
import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from . import guidance
from ._fields import bounded
from ._sample import sample
from ._types import Critic, Guidance, Policy
from .datasets import env_id, make_env, seed_everything
from .train import Nets, load_nets
from .weights import LinearDecay

Act = Callable[[Float[Array, "envs obs"], Int[Array, " envs"], int], Float[Array, "envs h a"]]
"""From observations, episode numbers and the count of chunks so far, to chunks of actions."""

ENVS = 10
"""Environments that one process steps together."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to draw an action from a flow and a critic at test time."""

    name: str
    """As it appears in tables."""
    estimator: Guidance = guidance.qgf
    weight: float | LinearDecay = 0.0
    """0 is the plain flow."""
    best_of: int = 1
    steps: int = 10
    reduce: Callable = jnp.min
    """Of the target ensemble's values, for guidance and for ranking; the paper's is the minimum."""


def method(text: str, *, weight: float | LinearDecay = 0.0, steps: int = 10) -> Method:
    """A method from its name: `flow`, an estimator such as `qgf`, `best-of-16` of the plain flow,
    or `qgf-best-of-4`. Only estimators take the weight.

    **Raises:** `ValueError` if there is no such method.
    """
    match = re.fullmatch(r"(?:(.+)-)?best-of-([1-9][0-9]*)", text)
    plain, best_of = (match[1] or "flow", int(match[2])) if match else (text, 1)
    if plain not in ("flow", *ESTIMATORS):
        raise ValueError(
            f"unknown method `{text}`; known are flow, {', '.join(ESTIMATORS)}, "
            "and of each the best of several, such as best-of-16 or qgf-best-of-4."
        )
    if plain == "flow":
        return Method(text, best_of=best_of, steps=steps)
    return Method(text, ESTIMATORS[plain], weight, best_of, steps)


ESTIMATORS: dict[str, Guidance] = {
    "qgf": guidance.qgf,
    "ood": guidance.ood,
    "qgf-jacobian": guidance.qgf_jacobian,
    "qgf-chain": guidance.qgf_chain,
    "bptt": guidance.bptt,
}
"""The estimators by the names that the command line uses."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """What one roll-out came to."""

    number: int
    success: bool
    length: int
    """Environment steps."""
    total_reward: float
    error: str = ""
    """Why it counts as a failure, if the environment raised or returned NaN."""
    path: list[list[float]] = dataclasses.field(default_factory=list)
    """The first two numbers of every observation, if asked for: the way through a maze."""


def make_act(policy: Policy, critic: Critic, method: Method, *, seed: int) -> Act:
    """The compiled, batched sampler of a method, with actions bounded to [-1, 1].

    Arguments as for `sample`; the noise of an episode's chunk is a pure function of `seed`, the
    episode's number and the chunk's.
    """
    critic, estimator = bounded(critic), method.estimator
    if estimator in (guidance.qgf_chain, guidance.bptt):
        estimator = eqx.Partial(estimator, steps=method.steps)

    @jax.jit
    def act(obs, numbers, count):
        def one(obs, number):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), count)
            return sample(
                policy,
                critic,
                obs,
                key,
                guidance=estimator,
                weight=method.weight,
                steps=method.steps,
                best_of=method.best_of,
            )

        return jax.vmap(one)(obs, numbers)

    return act


def rollout(
    envs: Sequence, act: Act, numbers: Sequence[int], *, seed: int, record: bool = False
) -> list[Episode]:
    """One episode per environment, in lock-step, executing chunks of actions open-loop.

    **Arguments:**

    - `envs`: at least as many Gymnasium environments as `numbers`.
    - `act`: the batched policy.
    - `numbers`: of the episodes.
    - `seed`: with an episode's number it seeds its environment.
    - `record`: keep the paths.

    **Returns:** the episodes, in order. An environment that raises or returns NaN ends its
    episode as a failure, with the error.
    """
    runs = [_Run(env, seed, number, record) for env, number in zip(envs, numbers, strict=False)]
    count = 0
    while any(run.alive for run in runs):
        obs = jnp.asarray(np.stack([run.obs for run in runs]), jnp.float32)
        chunks = np.asarray(act(obs, jnp.asarray(numbers, jnp.uint32), count))
        for run, chunk in zip(runs, chunks, strict=True):
            run.execute(chunk)
        count += 1
    return [run.episode() for run in runs]


class _Run:
    """One environment on its way through one episode."""

    def __init__(self, env, seed: int, number: int, record: bool):
        self.env, self.number, self.alive, self.record = env, number, True, record
        self.success, self.length, self.total, self.error, self.path = False, 0, 0.0, "", []
        try:
            obs, _ = env.reset(seed=seed_everything(env, seed, number))
            self._see(obs)
        except Exception as error:
            self.obs = np.zeros(env.observation_space.shape)
            self._fail(error)

    def execute(self, chunk: np.ndarray) -> None:
        for action in chunk:
            if not self.alive:
                return
            try:
                obs, reward, terminated, truncated, info = self.env.step(action)
                self.length += 1
                self.total += float(reward)
                self.success = self.success or bool(info["success"])
                self.alive = not (terminated or truncated)
                self._see(obs)
            except Exception as error:
                self._fail(error)

    def episode(self) -> Episode:
        return Episode(self.number, self.success, self.length, self.total, self.error, self.path)

    def _see(self, obs) -> None:
        if not np.isfinite(obs).all():
            raise FloatingPointError("the environment returned NaN or infinite observations")
        self.obs = obs
        if self.record:
            self.path.append([round(float(x), 3) for x in obs[:2]])

    def _fail(self, error: Exception) -> None:
        self.alive, self.success = False, False
        self.error = f"{type(error).__name__}: {error}"


def evaluate(
    run_dir: str | Path,
    methods: Sequence[Method],
    numbers: Sequence[int],
    *,
    seed: int = 0,
    processes: int | None = None,
    record: bool = False,
    progress: bool = True,
    label: str = "evaluate",
) -> list[list[Episode]]:
    """The episodes of every method on a run's own task, in several processes.

    **Arguments:**

    - `run_dir`: the folder of a training run.
    - `methods`: what to compare, on the same episodes.
    - `numbers`: of the episodes.
    - `seed`: of environments and noise.
    - `processes`: how many; all cores by default.
    - `record`: keep the paths.
    - `progress`, `label`: of the progress bar.

    **Returns:** for each method its episodes, in the order of `numbers`. They do not depend on
    the number of processes.
    """
    load_nets(run_dir)  # a damaged checkpoint is reported here, and not by a worker
    groups = [tuple(numbers[i : i + ENVS]) for i in range(0, len(numbers), ENVS)]
    jobs = [(i, m, group) for group in groups for i, m in enumerate(methods)]
    done: dict = {}
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    work = functools.partial(_evaluate_group, str(run_dir), seed, record)
    bar = tqdm(
        total=len(numbers) * len(methods),
        desc=label,
        unit=" episodes",
        disable=None if progress else True,
    )
    with bar, multiprocessing.get_context("spawn").Pool(processes) as pool:
        for i, episodes in pool.imap_unordered(work, jobs):
            done |= {(i, e.number): e for e in episodes}
            bar.update(len(episodes))
        pool.close()
        pool.join()
    return [[done[i, number] for number in numbers] for i in range(len(methods))]


def _evaluate_group(
    run_dir: str, seed: int, record: bool, job: tuple[int, Method, tuple[int, ...]]
):
    i, method, numbers = job
    env_name, act = _load(run_dir, method, seed)
    return i, rollout(_environments(env_name), act, numbers, seed=seed, record=record)


@functools.cache
def _load(run_dir: str, method: Method, seed: int) -> tuple[str, Act]:
    nets, config = load_nets(run_dir)
    return config.env, make_act(nets.policy, target_critic(nets, method.reduce), method, seed=seed)


def target_critic(nets: Nets, reduce: Callable = jnp.min) -> Critic:
    """The target ensemble of a run, reduced: the critic that guides and ranks."""
    return lambda obs, action: reduce(nets.target.values(obs, action))


@functools.cache
def _environments(env_name: str) -> list:
    return [make_env(env_id(env_name)) for _ in range(ENVS)]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a success rate: honest at 0 and at 1 too."""
    z = 1.959964
    centre = (successes + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(successes * (n - successes) / n + z**2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def difference(ours: Sequence[Episode], theirs: Sequence[Episode]) -> tuple[float, float, float]:
    """The difference of two success rates on the same episodes, with its 95 % interval.

    The interval is Bonett and Price's for paired proportions, which does not collapse when all
    pairs agree.

    **Raises:** `ValueError` if the episodes are not the same.
    """
    if [e.number for e in ours] != [e.number for e in theirs]:
        raise ValueError("`ours` and `theirs` are not the same episodes, so they are not paired.")
    pairs = list(zip(ours, theirs, strict=True))
    n = len(pairs)
    wins = sum(a.success and not b.success for a, b in pairs)
    losses = sum(b.success and not a.success for a, b in pairs)
    p, q = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = 1.959964 * np.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return (wins - losses) / n, max(p - q - half, -1.0), min(p - q + half, 1.0)

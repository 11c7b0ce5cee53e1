import dataclasses
import hashlib
import re

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import a_worker_is_killed
from scipy import stats

from qgf_eqx import checkpoint, learn
from qgf_eqx.analytic import GaussianFlow
from qgf_eqx.checkpoint import CheckpointError
from qgf_eqx.data import seed_everything
from qgf_eqx.data.ogbench import _load
from qgf_eqx.engines import EngineError
from qgf_eqx.evaluate import (
    Episode,
    Sampler,
    checkpoint_sha256,
    comparison,
    difference,
    evaluate,
    make_act,
    rollout,
)
from qgf_eqx.evaluate import _play as module
from qgf_eqx.evaluate._runs import TrainedRun
from qgf_eqx.evaluate._sources import Run
from qgf_eqx.evaluate.names import method
from qgf_eqx.evaluate.statistics import bonett_price
from qgf_eqx.learn import Spec, TrainConfig, Units, _trained, _updates, learners


class Counter(gymnasium.Env):
    """Counts its steps; success once the summed actions reach a seeded threshold."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self, limit=9, fault=None):
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,))
        self.limit, self.fault = limit, fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.sum = 0, 0.0
        self.threshold = self.np_random.uniform(2, 5) + np.random.uniform(0, 1)
        return np.array([self.sum, self.threshold]), {}

    def step(self, action):
        self.steps += 1
        self.sum += float(action[0])
        if self.fault == "raise" and self.steps == 4:
            raise RuntimeError("the simulator blew up")
        obs = np.array([self.sum, np.nan if self.fault == "nan" and self.steps == 4 else 1.0])
        success = self.sum >= self.threshold
        info = {"success": float(success)}
        broken = self.fault if self.steps == 4 else None
        if broken == "nan success":
            info["success"] = np.nan
        if broken == "no outcome":
            info = {"is_success": True}
        reward = np.nan if broken == "nan reward" else -1.0
        return obs, reward, success, self.steps >= self.limit, info


def full_speed(obs, numbers, count):
    return jnp.ones((len(obs), 3, 1))


def test_chunks_are_executed_until_success_or_the_limit():
    episodes = rollout([Counter(), Counter(limit=2)], full_speed, [0, 1], seed=0)
    assert episodes[0].success and 2 < episodes[0].length <= 6
    assert episodes[0].total_reward == -episodes[0].length
    assert (episodes[1].success, episodes[1].length) == (False, 2)


def test_all_randomness_of_an_episode_is_its_seed_and_number():
    together = rollout([Counter() for _ in range(3)], full_speed, [0, 1, 2], seed=0, record=True)
    alone = [rollout([Counter()], full_speed, [i], seed=0, record=True)[0] for i in (0, 1, 2)]
    assert together == alone
    assert len({tuple(e.path[0]) for e in together}) == 3
    other = rollout([Counter()], full_speed, [0], seed=1, record=True)[0]
    assert other.path[0] != together[0].path[0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "RuntimeError: the simulator blew up"),
        ("nan", "FloatingPointError: .* NaN or infinite observations"),
        ("nan reward", "FloatingPointError: .* NaN or infinite rewards"),
        ("nan success", "FloatingPointError: .* NaN or infinite success"),
    ],
)
def test_an_environment_that_breaks_is_a_failure_and_reported(fault, message):
    episodes = rollout(
        [Counter(fault=fault, limit=99), Counter()],
        lambda o, n, c: 0.1 * full_speed(o, n, c),
        [0, 1],
        seed=0,
    )
    assert not episodes[0].success and episodes[0].length == (3 if fault == "raise" else 4)
    assert re.match(message, episodes[0].error)
    assert episodes[1].error == "" and episodes[1].length == 9 and not episodes[1].success
    assert np.isfinite(episodes[0].total_reward)


def test_an_environment_without_an_outcome_is_an_error_and_not_a_failure():
    with pytest.raises(ValueError, match=r'Counter.* does not report `info\["success"\]`'):
        rollout([Counter(fault="no outcome", limit=99)], full_speed, [0], seed=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("numbers", "seed", "message"),
    [
        ([-1], 0, "`numbers` must be at least 0, got -1"),
        ([0.5], 0, "`numbers` must be a Python int, got 0.5"),
        ([2**32], 0, "`numbers` must be below 2.32, got 4294967296"),
        ([0], 2**32, "`seed` must be below 2.32"),
        ([0], -1, "`seed` must be at least 0, got -1"),
        ([0], 1.5, "`seed` must be a Python int, got 1.5"),
        ([0, 1], 0, "`envs` holds 1 environments for 2 `numbers`"),
    ],
)
def test_episodes_that_cannot_be_played_are_refused_by_name(numbers, seed, message):
    with pytest.raises((TypeError, ValueError), match=message):
        rollout([Counter()], full_speed, numbers, seed=seed)


def test_the_noise_is_a_function_of_seed_episode_and_chunk_and_not_of_the_batch():
    policy = GaussianFlow(jnp.zeros((2, 1)), 0.5)
    act = make_act(policy, lambda o, a: jnp.sum(a), Sampler(), seed=0)
    obs = jnp.zeros((3, 2))
    first = act(obs, jnp.array([4, 5, 6], jnp.uint32), 0)
    assert first.shape == (3, 2, 1) and len(np.unique(first)) == 6
    again = act(obs, jnp.array([6, 4, 5], jnp.uint32), 0)
    np.testing.assert_allclose(again, np.asarray(first)[[2, 0, 1]], rtol=1e-5)
    assert np.any(act(obs, jnp.array([4, 5, 6], jnp.uint32), 1) != first)
    other = make_act(policy, lambda o, a: jnp.sum(a), Sampler(), seed=1)
    assert np.any(other(obs, jnp.array([4, 5, 6], jnp.uint32), 0) != first)


def test_actions_are_bounded_and_guidance_moves_them_up():
    policy = GaussianFlow(jnp.zeros((2, 1)), 0.5)
    obs, numbers = jnp.zeros((50, 2)), jnp.arange(50, dtype=jnp.uint32)
    means = []
    for m in (
        method("flow"),
        method("qgf", weight=0.5),
        method("qgf", weight=50.0),
        method("best-of-8"),
    ):
        actions = make_act(policy, lambda o, a: jnp.sum(a), m, seed=0)(obs, numbers, 0)
        assert np.abs(actions).max() <= 1
        means.append(float(actions.mean()))
    assert means[0] < means[1] < means[2] == 1 and means[3] > means[0] + 0.1


def episodes(outcomes):
    return [Episode(i, bool(x), 1, 0.0) for i, x in enumerate(outcomes)]


def test_a_difference_is_of_the_same_episodes():
    ours = episodes([1, 1, 0])
    assert difference(ours, episodes([1, 0, 0])) == pytest.approx(
        (1 / 3, *bonett_price([True, True, False], [True, False, False]))
    )
    with pytest.raises(ValueError, match="not the same episodes"):
        difference(ours, [dataclasses.replace(e, number=e.number + 1) for e in ours])


MAZE = "pointmaze-medium-navigate-singletask-task1-v0"


@pytest.fixture(scope="module")
def checkpoints():
    """Of two untrained runs."""
    config = TrainConfig(MAZE, horizon=50, **learners(width=8, depth=2))
    spec = Spec(2, (50, 2))
    state = eqx.filter_jit(lambda: _updates.init(config, spec))()
    return [(state, config), (jax.tree.map(lambda x: -x if eqx.is_array(x) else x, state), config)]


@pytest.fixture
def run(tmp_path, checkpoints):
    save(tmp_path, checkpoints[0])
    return tmp_path


def save(run_dir, saved, **more):
    settings = {"config": saved[1].as_dict(), "spec": Spec(2, (50, 2))._asdict(), **more}
    state = _trained.SavedState(saved[0], Units(None, None))
    checkpoint.save(run_dir / "checkpoint.safetensors", state, settings)


@pytest.fixture
def counters(monkeypatch):
    """Counters in place of mazes, in this process: all that were made."""
    made = []

    class Watched(Counter):
        closed = 0

        def __init__(self, fault=None):
            super().__init__(fault=fault)
            self.action_space = gymnasium.spaces.Box(-1, 1, (2,))
            made.append(self)

        def close(self):
            self.closed += 1

    monkeypatch.setattr(_load, "make_pictured", lambda _: Watched())
    return made


def played(run_dir, methods, numbers, **options):
    names = [method(name, weight=0.1, steps=1) for name in methods]
    return evaluate(
        run_dir, names, numbers, progress=False, **({"processes": 1, "resume": False} | options)
    )


def test_only_as_many_environments_are_made_as_are_needed_and_all_are_closed(run, counters):
    outcomes = played(run, ("flow", "best-of-2"), range(3))
    assert [[e.number for e in episodes] for episodes in outcomes] == [[0, 1, 2]] * 2
    assert [env.closed for env in counters] == [1, 1, 1]
    played(run, ("flow",), range(module.ENVS + 3))
    assert [env.closed for env in counters] == [1] * (3 + module.ENVS)


def test_episodes_after_a_broken_environment_get_a_new_one(run, monkeypatch, counters):
    played(run, ("flow",), [0])
    kind = type(counters[0])
    monkeypatch.setattr(_load, "make_pictured", lambda _: kind(None if counters else "raise"))
    counters.clear()
    first, second = played(run, ("flow", "best-of-2"), [0])
    assert first[0].error and not second[0].error and len(counters) == 2


def test_a_checkpoint_is_known_by_its_hash_and_read_anew_every_time(run, checkpoints, counters):
    path = run / "checkpoint.safetensors"
    first = checkpoint_sha256(run)
    assert first == hashlib.sha256(path.read_bytes()).hexdigest()
    before = played(run, ("flow",), range(3), record=True)
    assert played(run, ("flow",), range(3), record=True, sha256=first) == before
    save(run, checkpoints[1])
    assert played(run, ("flow",), range(3), record=True) != before
    with pytest.raises(CheckpointError, match="changed while it was evaluated. Wait until"):
        played(run, ("flow",), range(3), sha256=first)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        played(run, ("flow",), range(3))


def test_runs_that_are_not_trained_equally_long_are_refused(tmp_path, checkpoints, counters):
    """As one that was killed, or is still in training."""
    folders = [tmp_path / name for name in "ab"]
    for i, folder in enumerate(folders):
        folder.mkdir()
        state, config = checkpoints[i]
        save(folder, (state, dataclasses.replace(config, seed=i)), step=300 - 200 * i)
    options = {"weights": (0.1,), "tuning_episodes": 1, "episodes": 1, "processes": 1, "steps": 1}
    with pytest.raises(ValueError, match="have made 100, 300 updates: train each run to its end"):
        comparison.compare(folders, ("flow",), **options)
    save(folders[1], (state, dataclasses.replace(config, seed=1)))  # an older version's
    results = comparison.compare(folders, ("flow",), **options)
    assert [run.updates for run in results.runs] == [300, None]


def test_a_checkpoint_that_changes_between_two_loads_is_an_error(run, checkpoints, monkeypatch):
    def changes(run_dir, loaded=learn.load_run):
        save(run, checkpoints[1])
        return loaded(run_dir)

    monkeypatch.setattr(learn, "load_run", changes)
    with pytest.raises(CheckpointError, match=f"{run} changed while it was evaluated"):
        played(run, ("flow",), [0])


def test_one_process_plays_what_two_play(run):
    here = played(run, ("flow", "flow"), [7], seed=3, record=True)
    assert played(run, ("flow", "flow"), [7], seed=3, record=True, processes=2) == here


def test_a_killed_worker_of_an_evaluation_is_an_error_and_no_hang(run):
    with a_worker_is_killed(), pytest.raises(EngineError, match="a worker process died"):
        played(run, ("flow", "qgf"), range(20), processes=2)


def test_nothing_to_play_is_nothing(run):
    assert played(run, ("flow", "qgf"), []) == [[], []]


def test_the_interval_of_a_difference_covers_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        _, low, high = difference(
            episodes(rng.uniform(size=60) < 0.6), episodes(rng.uniform(size=60) < 0.4)
        )
        covered += low <= 0.2 <= high
    assert 0.92 < covered / 400 <= 1


def runs_by_name(runs):
    """In place of reading their checkpoints."""
    found = [TrainedRun(run, i, 300, run) for i, run in enumerate(runs)]
    return "cube-single-play-singletask-task1-v0", tuple(found), {}


def test_every_run_and_tuning_and_reporting_have_episodes_of_their_own(monkeypatch):
    """And the methods of a run have the same ones, so that they are paired."""
    asked = []

    def played(run, methods, numbers, **options):
        asked.append((run, tuple(numbers)))
        return [[Episode(n, n % 2 == 0, 1, 0.0) for n in numbers] for _ in methods]

    monkeypatch.setattr(comparison, "evaluate", played)
    monkeypatch.setattr(comparison, "_seeds_of_one", runs_by_name)
    results = comparison.compare(
        ["a", "b", "c"],
        ("flow", "qgf"),
        weights=(0.1, 0.2),
        tuning_episodes=2,
        episodes=3,
        extensions=0,
    )
    tuning = [("a", (0, 1)), ("b", (10_000, 10_001)), ("c", (20_000, 20_001))]
    reported = [(run, tuple(2_000_000 + 10_000 * i + k for k in range(3))) for i, run in enumerate("abc")]  # fmt: skip
    assert asked == tuning + reported
    numbers = [[e.number for e in episodes] for episodes in results.episodes["qgf"]]
    assert numbers == [list(those) for _, those in reported]
    assert (results.row("qgf").n, results.row("qgf").by_run) == (9, (2, 2, 2))
    asked.clear()
    comparison.tune_weight(["a", "b"], "qgf", weights=(0.1, 0.2), episodes=2, extensions=0)
    assert asked == tuning[:2]


def test_the_best_weight_of_the_tuning_episodes_is_the_one_that_is_reported(monkeypatch):
    """With the steps and the reduction that were asked for; the first of equally good ones."""
    wins = {0.1: 1, 0.2: 3, 0.3: 3, 0.4: 0}
    reported = []

    def played(run, methods, numbers, **options):
        assert all((m.reduce, m.steps) == (jnp.mean, 7) for m in methods)
        if numbers[0] >= comparison.REPORT_FROM:
            reported.append([(m.name, m.weight, m.best_of) for m in methods])
        return [
            [Episode(n, k < wins.get(m.weight, 0), 1, 0.0) for k, n in enumerate(numbers)]
            for m in methods
        ]

    monkeypatch.setattr(comparison, "evaluate", played)
    monkeypatch.setattr(comparison, "_seeds_of_one", runs_by_name)
    options = {"weights": tuple(wins), "steps": 7, "reduce": jnp.mean}
    names = ("flow", "best-of-4", "qgf-best-of-2")
    results = comparison.compare(["a"], names, tuning_episodes=4, episodes=5, **options)
    assert reported == [[("flow", 0.0, 1), ("best-of-4", 0.0, 4), ("qgf-best-of-2", 0.2, 2)]]
    assert [sum(row.by_run) for row in results.tuning] == list(wins.values())
    assert [row.weight for row in results.table] == [0.0, 0.0, 0.2]
    found = comparison.tune_weight(["a"], "qgf", episodes=4, **options)
    assert (found.weight, found.episodes, found.environment_steps) == (0.2, 16, 16)


class Fleeting(Counter):
    """Reaches its goal in its second step and leaves it again."""

    def step(self, action):
        obs, reward, _, truncated, _ = super().step(action)
        return obs, reward, False, truncated, {"success": float(self.steps == 2)}


def test_a_success_counts_though_the_environment_goes_on():
    (episode,) = rollout([Fleeting()], lambda o, n, c: 0 * full_speed(o, n, c), [0], seed=0)
    assert episode.success and episode.length == 9


def test_it_is_the_target_ensemble_that_guides(run, checkpoints):
    state, config = checkpoints[0]
    (online, _), kept = state.nets["critic"]
    kept = jax.tree.map(lambda x: x * 2 if eqx.is_array(x) else x, kept)
    critic = state.nets["critic"]._replace(kept=kept)
    save(run, (state._replace(nets={**state.nets, "critic": critic}), config))
    found = Run(str(run), checkpoint_sha256(run)).load()
    obs, action = jnp.ones(2), jnp.full((50, 2), 0.3)
    values = kept.values(obs, action)
    assert np.all(values != online.values(obs, action))
    np.testing.assert_allclose(found.critic.values(obs, action), values, rtol=1e-5)
    np.testing.assert_allclose(found.critic(obs, action), values.min(), rtol=1e-5)
    for reduce, expected in ((jnp.min, values.min()), (jnp.mean, values.mean())):
        critic = Sampler(reduce=reduce).critic(found.critic.values)
        np.testing.assert_allclose(critic(obs, action), expected, rtol=1e-5)


def test_the_interval_of_a_difference_is_bonett_and_prices():
    """Five wins and two losses in twenty pairs, with one more of each in 22."""
    ours, theirs = [1] * 5 + [0] * 2 + [1] * 6 + [0] * 7, [0] * 5 + [1] * 2 + [1] * 6 + [0] * 7
    mean, low, high = difference(episodes(ours), episodes(theirs))
    p, q = 6 / 22, 3 / 22
    half = stats.norm.ppf(0.975) * np.sqrt((p + q - (p - q) ** 2) / 22)
    np.testing.assert_allclose((mean, low, high), (0.15, p - q - half, p - q + half), rtol=1e-6)


def test_every_source_of_randomness_is_seeded_by_all_of_the_entropy():
    def draws(*entropy):
        env = Counter()
        seed = seed_everything(env, *entropy)
        return seed, np.random.uniform(), float(env.action_space.sample()[0])

    found = [draws(*entropy) for entropy in ((0, 1), (0, 2), (1, 1))]
    assert all(len(set(source)) == 3 for source in zip(*found, strict=True))
    assert draws(0, 1) == found[0]

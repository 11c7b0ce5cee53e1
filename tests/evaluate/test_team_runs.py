"""Runs of several actors and several seeds, from the command line to the table."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import toy_actor

from qgf_eqx import bounded, cli, guidance, sample
from qgf_eqx.data import Dataset
from qgf_eqx.evaluate import Task, load_policy, method, task_of
from qgf_eqx.evaluate._sources import as_source
from qgf_eqx.evaluate.results import read
from qgf_eqx.learn import (
    RunError,
    TrainConfig,
    learners,
    load_run,
    preset,
    presets,
    read_metrics,
    train,
    train_seeds,
)
from qgf_eqx.learn import run as module
from qgf_eqx.learn._kinds import ACTORS, CRITICS, learner
from qgf_eqx.learn.actors import BC, FQL
from qgf_eqx.learn.critics import IQL

pytestmark = pytest.mark.usefixtures("loose_promotion")

NAMES = ("flow", "edp", "fql-3", "fql-30", "qam", "cfgrl", "robust-q", "ifql")
CONFIG = TrainConfig(
    "toy:make_array_task",
    updates=6,
    batch=8,
    horizon=2,
    gamma=0.9,
    **learners("iql", NAMES, width=8, depth=1),
)
OPTIONS = {"updates_per_call": 2, "save_every": 4, "progress": False}


def data(rows=60):
    rng = np.random.default_rng(0)
    ends = np.zeros(rows, np.float32)
    ends[[rows // 2, rows - 1]] = 1
    solved = (rng.uniform(size=rows) < 0.1).astype(np.float32)
    obs = rng.normal(size=(rows, 2)).astype(np.float32)
    actions = rng.uniform(-0.5, 0.9, size=(rows, 1)).astype(np.float32)
    return Dataset(obs, actions, solved - 1, solved, ends)


def arrays(folder):
    return eqx.filter(load_run(folder).saved.state, eqx.is_array)


@pytest.fixture(scope="module")
def run(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("team") / "run"
    train(CONFIG, data(), folder, **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("seeds")
    train_seeds(CONFIG, [0, 3], data(), folder, **OPTIONS)
    return folder


def test_a_run_of_several_actors_is_read_back_with_all_of_them(run):
    found = load_run(run)
    assert found.config == CONFIG and set(found.saved.state.nets) == {"critic", *NAMES}
    losses = set(read_metrics(run / "metrics.jsonl")[-1])
    assert {"critic/value_loss", "fql-30/distill_loss", "qam/adjoint_loss"} <= losses
    assert found.config.actors["fql-30"] == FQL(width=8, depth=1, alpha=30.0)
    obs, key = jnp.ones(2), jax.random.key(0)
    for name in ("edp", "fql-3", "qam", "cfgrl", "ifql"):
        action = found.actor(name).act(obs, key)
        assert action.shape == (2, 1) and np.isfinite(action).all()
        assert (action >= -0.5).all() and (action <= 0.9).all()  # the data's range
    with pytest.raises(RunError, match="`robust-q` draws no actions"):
        found.actor("robust-q")
    with pytest.raises(RunError, match="`fql-3` is not a flow"):
        found.policy_of("fql-3")
    with pytest.raises(RunError, match="`edp` does not guide"):
        found.estimator_of("edp")
    with pytest.raises(RunError, match="no actor `dac`; it has cfgrl, edp, .* Train it beside"):
        found.actor("dac")


def test_the_critic_of_a_run_does_not_depend_on_its_actors_to_the_bit(run, tmp_path):
    few = dataclasses.replace(CONFIG, actors={n: CONFIG.actors[n] for n in ("flow", "fql-3")})
    train(few, data(), tmp_path, **OPTIONS)
    alone, together = arrays(tmp_path), arrays(run)
    assert eqx.tree_equal(alone.nets["critic"], together.nets["critic"])
    assert eqx.tree_equal(alone.optimizers["critic"], together.optimizers["critic"])
    assert eqx.tree_equal(alone.nets["fql-3"], together.nets["fql-3"], rtol=1e-5, atol=1e-6)


def test_seeds_trained_together_are_seeds_trained_apart(run, seeds, tmp_path):
    third = dataclasses.replace(CONFIG, seed=3)
    train(third, data(), tmp_path, **OPTIONS)
    for alone, together in ((run, seeds / "seed0"), (tmp_path, seeds / "seed3")):
        pair = jax.tree.leaves(arrays(alone)), jax.tree.leaves(arrays(together))
        for one, other in zip(*pair, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert load_run(seeds / "seed3").config == third and load_run(seeds / "seed3").step == 6
    apart = jax.tree.leaves(arrays(run).nets), jax.tree.leaves(arrays(tmp_path).nets)
    assert max(float(np.abs(a - b).max()) for a, b in zip(*apart, strict=True)) > 0.01
    alone = [line for line in read_metrics(run / "metrics.jsonl")]
    together = [line for line in read_metrics(seeds / "seed0" / "metrics.jsonl")]
    for one, other in zip(alone, together, strict=True):
        rate = "updates_per_second"
        assert {**one, rate: 0} == pytest.approx({**other, rate: 0}, rel=1e-4)


def test_seeds_go_on_with_the_same_bits_also_if_killed_between_two_saves(seeds, tmp_path):
    folder, half = tmp_path / "a", dataclasses.replace(CONFIG, updates=4)
    train_seeds(half, [0, 3], data(), folder, **OPTIONS)
    shutil.copytree(folder, tmp_path / "b")
    train_seeds(CONFIG, [0, 3], data(), folder, **OPTIONS)
    name = "checkpoint.safetensors"
    for seed in ("seed0", "seed3"):
        assert (folder / seed / name).read_bytes() == (seeds / seed / name).read_bytes()
    # One of the two was saved and the other was not: it catches up alone.
    shutil.copy(folder / "seed0" / name, tmp_path / "b" / "seed0" / name)
    train_seeds(dataclasses.replace(CONFIG, updates=8), [0, 3], data(), tmp_path / "b", **OPTIONS)
    train_seeds(dataclasses.replace(CONFIG, updates=8), [0, 3], data(), folder, **OPTIONS)
    for seed in ("seed0", "seed3"):
        pair = (jax.tree.leaves(arrays(tmp_path / x / seed)) for x in "ab")
        for one, other in zip(*pair, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_seeds_that_are_streamed_are_those_in_memory(seeds, tmp_path):
    train_seeds(CONFIG, [0, 3], data(), tmp_path, streamed=True, **OPTIONS)
    for seed in ("seed0", "seed3"):
        both = arrays(tmp_path / seed), arrays(seeds / seed)
        assert eqx.tree_equal(*both, rtol=1e-5, atol=1e-6)


def test_the_seed_that_diverges_is_named_and_wrong_seeds_are_refused(tmp_path):
    bad = data()
    bad.rewards[:] = 1e30
    with pytest.raises(RunError, match="training of seed 0 diverged before update 2"):
        train_seeds(CONFIG, [0, 1], bad, tmp_path, **OPTIONS)
    for wrong in ([], [1, 1]):
        with pytest.raises(RunError, match="`seeds` must name each seed once"):
            train_seeds(CONFIG, wrong, data(), tmp_path, **OPTIONS)


def test_an_actor_draws_the_same_action_by_itself_and_as_a_method(run):
    """Within the environment's bounds, which may be narrower than the data's."""
    found, obs, key = load_run(run), np.ones(2, np.float32), jax.random.key(5)
    inner = jax.random.fold_in(key, 0)
    for name in ("edp", "fql-30", "qam", "ifql"):
        wanted = jnp.clip(found.actor(name).act(obs, inner), -1, 1)
        np.testing.assert_allclose(
            load_policy(run, method(name), task="toy:make_array_task")(obs, key), wanted, atol=1e-6
        )
    space = gymnasium.spaces.Box(-0.1, 0.1, (1,))
    tiny = Task("tiny", lambda: SimpleNamespace(action_space=space, close=lambda: None))
    wanted = jnp.clip(found.actor("edp").act(obs, inner), -0.1, 0.1)
    assert (np.abs(wanted) > 0.0999).any()
    np.testing.assert_allclose(load_policy(run, method("edp"), task=tiny)(obs, key), wanted)
    for weight in (1.0, 5.0):
        wanted = found.actor("cfgrl").act(obs, inner, weight=weight)
        drawn = load_policy(run, method("cfgrl", weight=weight), task="toy:make_array_task")
        np.testing.assert_allclose(drawn(obs, key), jnp.clip(wanted, -1, 1), atol=1e-6)
    several = load_policy(run, method("fql-30-best-of-4"), task="toy:make_array_task")(obs, key)
    keys = [jax.random.fold_in(key, i) for i in range(4)]
    each = jnp.stack([found.actor("fql-30").act(obs, k) for k in keys])
    ranks = bounded(lambda o, a: jnp.min(found.values(o, a)))
    np.testing.assert_allclose(several, each[jnp.argmax(jax.vmap(ranks, (None, 0))(obs, each))])
    # RobustQ guides the flow by its own gradient.
    robust = eqx.Partial(guidance.robust, robust_critic=found.saved.state.nets["robust-q"].trained)
    wanted = sample(found.policy, ranks, obs, key, guidance=robust, weight=0.3)
    drawn = load_policy(run, method("robust-q", weight=0.3), task="toy:make_array_task")(obs, key)
    np.testing.assert_allclose(drawn, wanted, rtol=1e-5, atol=1e-6)


def test_a_name_says_an_actor_its_strength_and_what_it_takes():
    assert method("fql").draw is method("edp").draw and not method("fql").weighted
    assert method("cfgrl").choices == (0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0)
    assert method("robust-q").draw is sample and method("robust-q").weighted
    both = method("fql", actors=CONFIG.actors)
    assert both.weighted and both.choices == (3.0, 30.0) and both.actor == "fql"
    assert method("fql-30").actor == "fql-30" and not method("fql-30").weighted
    for wrong in ("fqll", "fql-x", "robust_q"):
        with pytest.raises(ValueError, match=f"unknown method `{wrong}`.* known are flow, .*edp"):
            method(wrong)


SMALL = ["--updates", "4", "--batch", "8", "--horizon", "2", "--width", "8", "--depth", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, loose_promotion):
    """Two seeds in one program, by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    actors = ["flow", "fql-3", "fql-30", "cfgrl", "robust-q", "toy_actor:Mean"]
    options = ["--actors", *actors, "--seeds", "0", "1", "--fql-steps", "4", "--iql-critics", "1"]
    cli.main(["train", "--env", "toy:make_array_task", *SMALL, *options, "--run-dir", str(folder)])
    return folder


def test_the_command_line_trains_a_team_and_evaluates_it_by_name(trained, capsys):
    config = load_run(trained / "seed1").config
    assert config.actors["fql-3"] == FQL(width=8, depth=1, alpha=3.0, steps=4)
    assert config.critic == IQL(width=8, depth=1, critics=1) and config.seed == 1
    assert isinstance(config.actors["Mean"], toy_actor.Mean)
    out = trained / "table.json"
    names = ["flow", "qgf", "fql", "fql-3", "cfgrl", "robust-q", "Mean", "fql-best-of-2"]
    quick = ["--episodes", "2", "--tuning-episodes", "2", "--weights", "0.1", "0.3"]
    quick += ["--steps", "2", "--processes", "1", "--extensions", "0"]
    runs = [str(trained / f"seed{seed}") for seed in (0, 1)]
    cli.main(["evaluate", *runs, "--methods", *names, *quick, "--out", str(out)])
    printed = capsys.readouterr().out
    assert re.search(r"fql +(3|30)", printed)
    found = read(out)
    assert [row.method for row in found.table] == names
    tried = {
        name: {row.choice.weight for row in found.tuning if row.method == name} for name in names
    }
    assert tried["fql"] == tried["fql-best-of-2"] == {3.0, 30.0}
    assert tried["cfgrl"] == {0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0}
    assert tried["qgf"] == tried["robust-q"] == {0.1, 0.3} and not tried["flow"] | tried["Mean"]
    weight = found.row("fql").choice.weight
    same = method(f"fql-{weight:g}")
    again = load_policy(runs[0], same, task="toy:make_array_task")
    assert again(np.ones(2, np.float32), jax.random.key(0)).shape == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--critic", "iqll"], "unknown learner `iqll`; known are"),
        (["--actors", "flo"], "unknown learner `flo`; known are cfgrl, dac, distill, edp, flow"),
        (["--actors", "flow-3"], "`flow` takes no number"),
        (["--actors", "flow", "flow"], "`actors` has flow twice"),
        (["--actors", "toy_actor:Mean", "other:Mean"], "`actors` has Mean twice"),
        (["--actors", "toy_actor:Nothing"], "`Nothing` is not a dataclass of `toy_actor`"),
        (["--fql-alpha", "3"], "`--fql-alpha` is of `fql`, which is not trained"),
        (["--critic", "td"], "`next_actor` must name the actor"),
        (["--iql-expectile", "2"], "`expectile` must be in"),
        (["--normalise-obs", "x"], "normalise-obs"),
    ],
)
def test_what_is_wrong_with_a_team_is_said_before_the_work(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        cli.main(
            ["train", "--env", "toy:make_array_task", *arguments, "--run-dir", str(tmp_path / "r")]
        )
    assert left.value.code == 2 and not (tmp_path / "r").exists()
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_a_file_of_settings_is_a_default_that_options_override(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "qgf_eqx.learn.train", lambda config, *_, **__: asked.append(config) or Path("p")
    )
    file = ["train", "--config", str(run / "config.json"), "--run-dir", str(tmp_path)]
    cli.main(file)
    cli.main([*file, "--updates", "9", "--width", "16", "--fql-steps", "5", "--seed", "2"])
    cli.main([*file, "--actors", "flow", "fql-3", "fql-7", "dac"])
    cli.main([*file, "--actors", "flow", "qsm", "--critic", "sarsa", "--depth", "3"])
    assert asked[0] == CONFIG
    assert (asked[1].updates, asked[1].seed, asked[1].batch) == (9, 2, 8)
    assert asked[1].actors["fql-30"] == FQL(width=16, depth=1, alpha=30.0, steps=5)
    assert set(asked[2].actors) == {"flow", "fql-3", "fql-7", "dac"}
    old = CONFIG.actors["fql-3"]
    assert asked[2].actors["fql-3"] == old
    # New learners have the sizes of those in the file, and the settings of one of their kind.
    assert asked[2].actors["fql-7"] == dataclasses.replace(old, alpha=7.0)
    assert asked[2].actors["dac"] == learner("dac", ACTORS, width=8, depth=1)
    assert asked[3].actors["qsm"] == learner("qsm", ACTORS, width=8, depth=3)
    assert asked[3].critic == learner("sarsa", CRITICS, width=8, depth=3)


def test_presets_are_settings_that_options_override(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        "qgf_eqx.learn.train", lambda config, *_, **__: asked.append(config) or Path("p")
    )
    line = ["train", "--preset", "cpu/pointmaze-medium", "--env", "toy:make_array_task"]
    cli.main([*line, "--updates", "9", "--run-dir", str(tmp_path)])
    assert (asked[0].updates, asked[0].batch, asked[0].gamma) == (9, 256, 0.99)
    assert asked[0].critic == IQL(width=128, depth=3, ema_rate=0.001)
    assert asked[0].actors["fql-30"] == FQL(width=128, depth=3, alpha=30.0)
    paper = preset("paper/scene")
    assert paper.critic == IQL() and paper.updates == 500_000
    assert (paper.actors["edp"].c, paper.actors["fql"].alpha, paper.actors["dac"].alpha) == (
        30,
        300,
        100,
    )
    assert preset("paper/cube-triple").actors["fql"].alpha == 1000
    assert set(paper.actors) >= {"flow", "qam", "qsm", "cfgrl", "robust-q", "ifql"}
    assert all(isinstance(one, TrainConfig) for one in presets().values())
    goals = {name: one for name, one in presets().items() if name.startswith("goals/")}
    assert {(one.critic.distil, one.critic.reduce) for one in goals.values()} == {
        (0.8, "min"),
        (0.5, "min"),
        (0.5, "mean"),
    }
    tasks = [task_of(one.env) for one in goals.values()]
    assert sum(task.goals for task in tasks) == 25  # of the paper's second table
    for wrong, said in (
        (["--preset", "paper/maze"], "unknown preset `paper/maze`; known are paper/cube-triple"),
        (["--preset", "paper/scene", "--config", "x"], "`config` and `preset` are both defaults"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["train", *wrong])
        assert said in capsys.readouterr().err


def test_a_td_critic_is_trained_on_a_named_actor_and_guides(tmp_path):
    options = ["--critic", "td", "--actors", "flow", "qam", "--next-actor", "qam"]
    options += ["--td-critics", "3", "--run-dir", str(tmp_path)]
    cli.main(["train", "--env", "toy:make_array_task", *SMALL, *options])
    found = load_run(tmp_path)
    assert found.value is None and found.values(jnp.ones(2), jnp.zeros((2, 1))).shape == (3,)
    policy = load_policy(tmp_path, method("qgf", weight=0.1), task="toy:make_array_task")
    assert policy(np.ones(2, np.float32), jax.random.key(0)).shape == (2, 1)


def test_a_flow_is_guided_by_the_critic_of_another_run_for_another_reward(
    trained, tmp_path, capsys
):
    """One flow, any reward: a critic that was trained alone, on actions in other units."""
    line = ["train", "--env", "toy:make_array_task", *SMALL, "--actors", "--seeds", "0", "1"]
    line += ["--iql-expectile", "0.6", "--normalise-actions", "min-max", "--run-dir", str(tmp_path)]
    cli.main(line)
    flows = [str(trained / f"seed{seed}") for seed in (0, 1)]
    critics = [str(tmp_path / f"seed{seed}") for seed in (0, 1)]
    alone = load_run(critics[0])
    assert set(alone.saved.state.nets) == {"critic"}
    with pytest.raises(RunError, match="no actor of this run is a flow"):
        _ = alone.policy
    quick = ["--methods", "flow", "qgf", "--weights", "5", "--episodes", "2", "--steps", "2"]
    out = tmp_path / "table.json"
    common = [*quick, "--processes", "1", "--out"]
    cli.main(["evaluate", *flows, "--critics", *critics, *common, str(out)])
    cli.main(["evaluate", *flows, *common, str(tmp_path / "own.json")])
    found, own = read(out), read(tmp_path / "own.json")
    assert [run.critic for run in found.runs] == [Path(c).name for c in critics]
    assert [run.critic for run in own.runs] == [None, None]
    returns = lambda table, name: [e.total_reward for es in table.episodes[name] for e in es]  # noqa: E731
    assert returns(found, "flow") == returns(own, "flow")
    assert returns(found, "qgf") != returns(own, "qgf")
    # The critic is asked in its own units.
    source = as_source(flows[0], critic=critics[0]).load()
    obs, action = jnp.ones(2), jnp.full((2, 1), 0.4)
    np.testing.assert_allclose(
        source.critic.values(obs, action),
        alone.values(obs, alone.units.from_action(action)),
        rtol=1e-5,
    )
    capsys.readouterr()
    for more, said in (
        (critics[:1], "`critics` must be one for each run, got 1"),
        ([critics[0], str(tmp_path / "no")], "is not a folder"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["evaluate", *flows, *common, str(tmp_path / "x.json"), "--critics", *more])
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="`critic` is for training runs"):
        as_source(lambda *_: 0, critic=critics[0])


def test_a_critic_of_longer_chunks_guides_the_chunks_that_are_played(tmp_path):
    """DQC; streamed, its chunks are the same, and the flow's are those of a run without it."""
    nets = learners("dqc", ["flow"], width=8, depth=1)
    nets["critic"] = dataclasses.replace(nets["critic"], backup=5)
    config = dataclasses.replace(CONFIG, updates=4, **nets)
    for name, more in (("here", {}), ("streamed", {"streamed": True})):
        train(config, data(), tmp_path / name, **OPTIONS | more)
    found = load_run(tmp_path / "here")
    both = arrays(tmp_path / "here"), arrays(tmp_path / "streamed")
    assert eqx.tree_equal(*both, rtol=1e-5, atol=1e-6)
    (long, short, _), _ = found.saved.state.nets["critic"]
    assert long.members[0].action_shape == (5, 1) and short.members[0].action_shape == (2, 1)
    assert (
        found.policy.action_shape == (2, 1)
        and "critic/distil_loss" in read_metrics(tmp_path / "here" / "metrics.jsonl")[-1]
    )
    act = load_policy(tmp_path / "here", method("qgf", weight=0.1), task="toy:make_array_task")
    assert act(np.ones(2, np.float32), jax.random.key(0)).shape == (2, 1)


def test_the_list_of_methods_has_the_actors(capsys):
    cli.main(["methods", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(ACTORS) <= set(found) and found["fql"]["what"].startswith("Flow Q-learning")


def test_one_new_actor_is_one_new_file(tmp_path):
    """From outside of the package: its learner, trained and played by the command line."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "import jax.numpy as jnp\n"
        "from qgf_eqx.learn import Learner, Networks\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Still(Learner):\n"
        "    def init(self, spec, key):\n"
        "        return Networks(jnp.zeros(spec.action_shape))\n\n"
        "    def losses(self, nets, chunk, key, judges):\n"
        "        return {'loss': jnp.mean((nets.trained - chunk.action) ** 2)}\n\n"
        "    def act(self, nets, judges, obs, key):\n"
        "        return nets.trained\n"
    )
    here = str(Path(toy.__file__).parent)
    code = f"import sys; sys.path[:0] = [{here!r}, {str(tmp_path)!r}]; from qgf_eqx import cli; "
    line = ["train", "--env", "toy:make_array_task", *SMALL, "--actors", "flow", "mine:Still"]
    line += ["--run-dir", str(tmp_path / "run"), "--quiet"]
    play = ["evaluate", str(tmp_path / "run"), "--methods", "flow", "Still", "--episodes", "2"]
    play += ["--processes", "1", "--json"]
    for arguments in (line, play):
        done = subprocess.run(
            [sys.executable, "-c", code + f"cli.main({arguments!r})"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert "Still" in done.stdout


def test_configs_serialise_with_every_learner():
    every = learners("td", ["flow", *ACTORS.keys() - {"flow"}], width=4)
    config = TrainConfig("e", **every, next_actor="flow")
    text = json.dumps(config.as_dict())
    assert module.read_config(json.loads(text), "x") == config
    assert hash(config) == hash(module.read_config(json.loads(text), "x"))
    assert isinstance(config.actors["flow"], BC)

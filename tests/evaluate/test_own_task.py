"""A task of one's own, from the command line: trained, tuned, compared, filmed, without OGBench's."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

from qgf_eqx import Flow, bounded, cli
from qgf_eqx.deploy import ControlLoop
from qgf_eqx.deploy._wire import pack, unpack
from qgf_eqx.deploy.serve import PolicyServer
from qgf_eqx.engines import Local
from qgf_eqx.evaluate import (
    Return,
    Sampler,
    Task,
    evaluate,
    load_policy,
    method,
    open_policy,
)
from qgf_eqx.evaluate._runs import in_memory
from qgf_eqx.evaluate._sources import Run, checkpoint_sha256
from qgf_eqx.evaluate.comparison import compare, tune_weight
from qgf_eqx.evaluate.results import format_table, read, write
from qgf_eqx.evaluate.task import check_widths, dataset_of

pytestmark = pytest.mark.usefixtures("loose_promotion")

SMALL = ["--updates", "20", "--batch", "16", "--width", "8", "--depth", "2", "--horizon", "2"]
TASK = ["--env", "toy:make_array_task"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("own")
    cli.main(["train", *TASK, *SMALL, "--run-dir", str(folder / "run")])
    return folder / "run"


def test_a_run_on_a_task_of_ones_own_knows_its_task_and_is_compared_by_return(run, capsys):
    arguments = ["--methods", "flow", "qgf", "--weights", "0.1", "1", "--episodes", "3"]
    arguments += ["--tuning-episodes", "2", "--extensions", "0", "--steps", "2", "--processes", "1"]
    cli.main(["evaluate", str(run), *arguments])
    printed = capsys.readouterr().out
    assert "\nline\n" in printed and "return" in printed and "score" in printed
    results = json.loads((run / "results.json").read_text())
    assert results["task"] == "line" and "trained on" not in results  # it is its own
    assert results["references"] == [-24.0, 0.0]
    assert all(len(es[0]["return"]) == 3 for es in results["episodes"].values())
    assert (run / "success.png").stat().st_size > 5000


def test_its_weight_is_chosen_and_another_task_can_be_named(run, capsys):
    arguments = ["--weights", "0.1", "--episodes", "2", "--steps", "2", "--processes", "1"]
    cli.main(["choose", str(run), *arguments])
    assert "The weight: 0.1" in capsys.readouterr().out
    cli.main(["choose", str(run), *arguments, "--env", "toy:make_array_goal_task"])
    assert " %  [" in capsys.readouterr().out.splitlines()[0]
    with pytest.raises(SystemExit) as stop:
        cli.main(["choose", str(run), "--env", "toy:nothing"])
    assert stop.value.code == 2 and "has no `nothing`" in capsys.readouterr().err


def test_it_is_filmed(run, capsys):
    arguments = ["--methods", "flow", "--episodes", "2", "--steps", "2"]
    cli.main(["film", str(run), *arguments])
    assert "flow  mean return -" in capsys.readouterr().out
    with Image.open(run / "film.webp") as shown:
        assert shown.size == (2 * 256, 4 * 48 + 28)  # small pictures are enlarged, below a caption


def test_it_is_exported_and_the_file_has_its_actions(run, capsys):
    cli.main(["export", str(run), "--weight", "0.3", "--steps", "2"])
    assert "policy.zip: 0.0 MB" in capsys.readouterr().out
    with zipfile.ZipFile(run / "policy.zip") as file:
        about = json.loads(file.read("metadata.json"))
        program = jax.export.deserialize(bytearray(file.read("program.bin")))
    assert about["task"] == TASK[1] and about["bounds"] == {"low": [-1.0], "high": [1.0]}
    assert (about["method"], about["weight"]) == ("qgf", "0.3")
    key, obs = jax.random.key(3), np.array([0.5, 4], np.float32)
    found = program.call(obs[None], jax.random.key_data(key)[None])
    act = load_policy(run, method("qgf", weight=0.3, steps=2))
    np.testing.assert_allclose(found[0], act(obs, key), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["qgf", "ood-best-of-2"])
def test_it_runs_in_a_control_loop(run, name):
    found = open_policy(run, method(name, weight=0.3, steps=2))
    key, obs = jax.random.key(3), np.array([0.5, 4], np.float32)
    parts = found.policy, found.critic, found.obs, key
    with ControlLoop(*parts, to_action=found.to_action, **found.options) as loop:
        wanted = found.draw(jnp.asarray(obs), jax.random.fold_in(key, 1))
        for row in wanted:
            np.testing.assert_allclose(loop(obs), row, rtol=1e-5, atol=1e-6)


def test_a_method_that_is_no_call_of_sample_has_no_options_of_it(run):
    with pytest.raises(ValueError, match="`keep-best` is not a call of `sample`"):
        open_policy(run, method("keep-best", weight=0.3)).options  # noqa: B018


def test_it_is_served(run, capsys, monkeypatch):
    found = []

    def ask(server):
        with connect(f"ws://127.0.0.1:{server.port}", compression=None) as client:
            found.append(unpack(client.recv()))
            client.send(pack({"obs": np.array([0.5, 4]), "seed": 3}))
            found.append(unpack(client.recv())["actions"])

    monkeypatch.setattr(PolicyServer, "wait", ask)
    cli.main(["serve", str(run), "--method", "flow", "--steps", "2", "--port", "0"])
    assert f"Serving {run} at ws://127.0.0.1:" in capsys.readouterr().out
    assert found[0]["method"] == "flow" and found[0]["bounds"]["high"] == [1.0]
    act = load_policy(run, method("flow", steps=2))
    wanted = act(np.array([0.5, 4], np.float32), jax.random.key(3))
    np.testing.assert_allclose(found[1], wanted, rtol=1e-5, atol=1e-6)


def test_a_tasks_data_function_gets_what_it_takes():
    got = {}

    def data(split, cache_dir):
        got.update(split=split, cache_dir=cache_dir)
        return "data"

    task = Task("line", print, data=data)
    assert dataset_of(task, "folder", split="val", cache_dir="kept") == "data"
    assert got == {"split": "val", "cache_dir": "kept"}
    assert dataset_of(Task("line", print, data=lambda: "data"), "folder") == "data"


def test_data_in_a_file_are_named_and_said_and_must_be_as_wide_as_the_task(tmp_path, capsys):
    import toy

    fields = toy.recorded()._asdict()
    file, wide = tmp_path / "line.npz", tmp_path / "wide.npz"
    np.savez(file, **fields)
    np.savez(wide, **fields | {"obs": np.repeat(fields["obs"], 2, axis=1)})
    arguments = [*TASK, *SMALL, "--run-dir", str(tmp_path / "run")]
    kept = tmp_path / "kept"
    cli.main(["train", "--data", str(file), "--cache-dir", str(kept), *arguments])
    assert len(list(kept.glob("line-*.arrays"))) == 1 and not list(tmp_path.glob("*.arrays"))
    assert "120 transitions, 20 episodes" in capsys.readouterr().out
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--data", str(wide), *arguments])
    assert stop.value.code == 2
    assert "`obs` have shape (4,) in a row, but `line` has (2,)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["train", "--data", str(file), "--cache-dir", str(file), *arguments])
    assert "name another folder by `cache_dir` (`--cache-dir`)" in capsys.readouterr().err


def test_dicts_as_observations_and_actions_of_any_range_go_the_whole_way(tmp_path, capsys):
    run, units = str(tmp_path / "run"), ["--normalise-obs", "standardise"]
    units += ["--normalise-actions", "min-max"]
    cli.main(["train", "--env", "toy:make_dict_task", *SMALL, *units, "--run-dir", run])
    quick = ["--steps", "2", "--processes", "1", "--episodes", "2"]
    cli.main(["evaluate", run, "--methods", "flow", "qgf", "--weights", "0.1", *quick])
    assert "return" in capsys.readouterr().out
    cli.main(["choose", run, "--budget", "9", "--observations", "3", "--weights", "0.1"])
    assert "The weight: 0.1" in capsys.readouterr().out
    cli.main(["diagnose", run, "--observations", "3", "--noises", "2", "--steps", "2"])
    assert "The starting weight" in capsys.readouterr().out
    cli.main(["film", run, "--methods", "flow", "--episodes", "1", "--steps", "2"])


def test_offline_verbs_take_the_data_that_a_run_was_trained_on(tmp_path, capsys):
    import toy

    file, run = tmp_path / "line.npz", str(tmp_path / "run")
    np.savez(file, **toy.recorded()._asdict())
    task = ["--env", "toy:make_array_goal_task", "--data", str(file)]
    cli.main(["train", *task, *SMALL, "--run-dir", run])
    choose = ["choose", run, "--budget", "9", "--observations", "3", "--weights", "0.1"]
    with pytest.raises(SystemExit):
        cli.main(choose)
    assert "names no data" in capsys.readouterr().err
    cli.main([*choose, "--data", str(file)])
    assert "The weight: 0.1" in capsys.readouterr().out


def test_an_own_policy_on_an_own_task_needs_no_ogbench():
    code = """
import sys
for name in ("ogbench", "optax", "safetensors"):
    sys.modules[name] = None
import jax.numpy as jnp
from qgf_eqx import Flow
from qgf_eqx.evaluate import evaluate, method
policy = Flow(lambda obs, a_t, t: -a_t, action_shape=(2, 1))
critic = lambda obs, action: -jnp.sum((obs["goal"] - obs["place"] - jnp.sum(action)) ** 2)
if __name__ == "__main__":
    (found,) = evaluate((policy, critic), [method("qgf", weight=0.1, steps=2)], range(2), task="toy:make_task")
    print([e.length for e in found])
"""
    here = Path(__file__).parent
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert found.returncode == 0 and found.stdout == "[6, 6]\n", found.stderr


def test_the_trained_policy_is_one_function_that_acts_as_evaluate_plays(run):
    """Real observations in, real actions out, clipped to the environment's bounds."""
    import toy

    sampler = method("qgf", weight=500.0, steps=2)  # so strong that it ends at the bounds
    act, key = load_policy(run, sampler), jax.random.key(3)
    obs = toy.Array().reset(seed=1)[0]
    chunk = act(obs.astype(float), key)
    source = Run(str(run), checkpoint_sha256(run)).load()
    one = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 5), 0)
    played = source.act_of(sampler, 7, -np.ones(1, np.float32), np.ones(1, np.float32))
    inside = played(jnp.asarray(obs)[None], jnp.array([5], jnp.uint32), 0)[0]
    np.testing.assert_allclose(act(obs, one), inside, rtol=1e-5, atol=1e-6)
    assert chunk.shape == inside.shape and np.abs(chunk).max() <= 1 and np.abs(inside).max() > 0.9
    wide = load_policy(run, sampler, task=Task("wide", toy.Line))(obs, key)
    assert 1 < np.abs(wide).max() <= 2


def test_what_would_be_noticed_after_hours_is_noticed_before(tmp_path, capsys, monkeypatch):
    import toy

    monkeypatch.setattr(toy, "make_task", lambda: Task("silent", toy.Line))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--env", "toy:make_task", *SMALL, "--run-dir", str(tmp_path / "run")])
    assert stop.value.code == 2 and 'does not report `info["success"]`' in capsys.readouterr().err
    (tmp_path / "runs" / "seed0").mkdir(parents=True)
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(tmp_path / "runs")])
    assert "is not a training run, and holds some: name" in capsys.readouterr().err


def test_actions_beyond_the_tasks_bounds_are_warned_of():
    import toy

    recorded = toy.recorded()
    far = recorded._replace(actions=np.asarray(recorded.actions) * 9)
    with pytest.warns(UserWarning, match="`array` takes -1 to 1: is their scale different"):
        check_widths(Task("array", toy.Array), far)
    check_widths(Task("array", toy.Array), recorded)


def test_an_engine_that_stays_takes_nothing_of_a_task_for_another_of_its_name(run):
    """The second takes smaller actions: its program has other bounds."""
    import toy

    class Narrow(toy.Array):
        def __init__(self, **options):
            super().__init__(**options)
            self.action_space = gymnasium.spaces.Box(-0.1, 0.1, (1,))

    tasks = [Task("same", kind, Return()) for kind in (toy.Array, Narrow)]
    seen, options = [], {"progress": False, "resume": False}
    for engine in (Local(1), None):
        found = []
        for task in tasks:
            sampler = method("qgf", weight=50.0, steps=2)
            found += evaluate(str(run), [sampler], range(3), task=task, engine=engine, **options)
        seen.append(found)
    assert seen[0] == seen[1] and seen[0][0] != seen[0][1]


def test_normalised_actions_are_played_in_the_environments_units(unchecked):
    """The policy's actions are halves of those of `Line`, whose are in [-2, 2]."""
    policy = Flow(lambda obs, a, t: (0.5 - a) / (1 - t), (1, 1))  # it ends at 0.5: a step of 1
    critic = lambda obs, a: jnp.sum(a)  # noqa: E731
    play = partial(evaluate, samplers=[method("flow", steps=2)], numbers=[0], task="toy:make_task")
    double = {"to_action": lambda a: 2 * a}
    (found,) = play((policy, bounded(critic)), **double)
    with pytest.warns(RuntimeWarning, match="bounded by .*give `to_action`"):
        (short,) = play((policy, bounded(critic)))
    (plain,) = play((policy, critic))  # bounded by the environment
    assert short[0].total_reward == plain[0].total_reward < found[0].total_reward
    for odd in (lambda a: None, lambda a: a > 0, lambda a: (a, a)):
        with pytest.raises(TypeError, match="`to_action` must return one array of floats"):
            play((policy, bounded(critic)), to_action=odd)
    with pytest.raises(TypeError, match="`to_action` must be a function, got 2"):
        play((policy, bounded(critic)), to_action=2.0)
    for wrong in (lambda a: a[..., 0], lambda a: jnp.repeat(a, 2, axis=-1), lambda a: a[:1, 0]):
        with pytest.raises(ValueError, match="`to_action` makes .* it must make \\(.*1, 1\\)"):
            play((policy, bounded(critic)), to_action=wrong)
    with pytest.raises(ValueError, match="`to_action` needs a critic that is `bounded`"):
        play((policy, critic), **double)
    with pytest.raises(ValueError, match="`to_action` is for a policy and a critic"):
        play(lambda obs, numbers, count: obs, **double)


class Slope(eqx.Module):
    """A critic that prefers larger steps, with two members."""

    scale: float

    def values(self, obs, action):
        return self.scale * jnp.sum(action) * jnp.array([1.0, 2.0])

    def __call__(self, obs, action):
        return jnp.min(self.values(obs, action))


def networks(*places):
    """A pair for each place, at which the flow ends."""
    flow = lambda place: Flow(lambda obs, a, t: (place - a) / (1 - t), (1, 1))  # noqa: E731
    return [(flow(place), Slope(1.0)) for place in places]


def test_networks_of_ones_own_are_compared_and_tuned_as_runs_are(tmp_path):
    pairs, quiet = networks(0.2, 0.3), {"task": "toy:make_task", "steps": 2, "progress": False}
    found = compare(pairs, ["flow", "qgf"], episodes=3, tuning_episodes=2, **quiet)
    flow, guided = found.row("flow"), found.row("qgf")
    for i, pair in enumerate(pairs):
        numbers = [e.number for e in found.episodes["flow"][i]]
        for row, how in ((flow, {}), (guided, {"weight": guided.weight})):
            sampler = method(row.method, steps=2, **how)
            (played,) = evaluate(pair, [sampler], numbers, task="toy:make_task", progress=False)
            assert row.by_run[i] == pytest.approx(np.mean([e.total_reward for e in played]))
    assert max(flow.by_run) < min(guided.by_run)
    tuned = tune_weight(pairs, "qgf", episodes=2, **quiet)
    assert tuned.weight == guided.weight and tuned.tuning == found.tuning
    write(found, tmp_path / "e.json")
    assert read(tmp_path / "e.json").table == found.table
    double = {"to_action": lambda a: 2 * a, "episodes": 2, **quiet}
    wide = [(policy, bounded(lambda obs, a: jnp.sum(a))) for policy, _ in pairs]
    found = compare(wide, ["flow"], **double)
    assert found.row("flow").by_run[0] > flow.by_run[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": None}, "`task` is missing"),
        ({"critics": ["a", "b"]}, "give each pair its own critic"),
        ({"methods": ["fql"]}, "`fql` is an actor of a training run"),
    ],
)
def test_networks_that_cannot_be_compared_are_refused(change, message):
    options = {"runs": networks(0.1), "methods": ["flow"], "task": "toy:make_task", "episodes": 2}
    with pytest.raises((ValueError, TypeError), match=message):
        compare(**options | change, progress=False)
    for wrong in ([(1, 2)], ["a"], [*networks(0.1), "ab"]):
        with pytest.raises(TypeError, match="folders of training runs, or tuples"):
            in_memory(wrong)


def test_a_guided_method_without_a_weight_is_no_plain_flow_under_another_name(run):
    for play in (partial(load_policy, run), partial(open_policy, run)):
        with pytest.raises(ValueError, match="`qgf` has no weight.*name the method `flow`"):
            play(method("qgf"))
    pair, options = networks(0.1)[0], {"task": "toy:make_task", "progress": False}
    with pytest.raises(ValueError, match="`qgf-best-of-4` has no weight"):
        evaluate(pair, [method("qgf-best-of-4")], [0], **options)
    act = lambda obs, numbers, count: np.zeros((len(numbers), 1, 1))  # noqa: E731
    for source, sampler in ((pair, Sampler(best_of=2)), (act, Sampler(name="qgf"))):
        assert len(evaluate(source, [sampler], [0], **options)) == 1


def test_a_sampler_with_a_weight_keeps_it_and_prints_as_a_table():
    quiet = {"task": "toy:make_task", "steps": 2, "progress": False, "episodes": 2}
    strong = replace(method("qgf", weight=2.5, steps=2), name="strong")
    found = compare(networks(0.1), ["flow", strong], **quiet)
    assert found.row("strong").weight == 2.5 and found.tuning == ()
    assert str(found) == format_table(found) and "strong" in str(found)
    with pytest.raises(ValueError, match="methods` has qgf twice: give each `Sampler` a `name`"):
        compare(networks(0.1), [method("qgf", weight=w) for w in (1.0, 2.0)], **quiet)


def test_an_untuned_method_has_a_part_of_the_starting_weight_and_costs_no_episode(run):
    from qgf_eqx.evaluate._auto import start_of
    from qgf_eqx.evaluate._sources import as_source

    quiet = {"steps": 2, "progress": False, "episodes": 2, "weights": [0.5, 5.0]}
    found = compare([run], ["flow", "qgf", "qgf-untuned"], tuning_episodes=2, **quiet)
    start = start_of(as_source(run), "toy:make_array_task", jnp.min)
    assert found.row("qgf-untuned").weight == float(f"{0.3 * start:.2g}")
    assert {row.method for row in found.tuning} == {"qgf"}
    with pytest.raises(ValueError, match="`qgf-untuned` has no weight"):
        evaluate(run, [method("qgf-untuned")], [0], progress=False)
    flat = networks(0.1)[0][0], lambda obs, action: jnp.zeros(())
    with pytest.raises(ValueError, match="critic's gradient is zero or not finite"):
        compare([flat], ["qgf-untuned"], task="toy:make_task", episodes=2, progress=False)


def test_an_own_critic_is_called_as_it_is():
    """And not made of its members' values by another reduction than its own."""
    policy, options = networks(0.1)[0][0], {"task": "toy:make_task", "progress": False}

    class Mean(Slope):
        def __call__(self, obs, action):
            return 3 * jnp.sum(action)

    sampler = method("qgf", weight=0.1, steps=2)
    own, plain = Mean(1.0), lambda obs, action: 3 * jnp.sum(action)
    (one,), (other,) = (evaluate((policy, c), [sampler], [0], **options) for c in (own, plain))
    assert one == other
    with pytest.raises(ValueError, match="`reduce` is for training runs"):
        evaluate((policy, own), [replace(sampler, reduce=jnp.mean)], [0], **options)
    assert compare([(policy, own)], ["flow"], episodes=2, **options).reduce == ""


def preference(obs, action):
    return jnp.sum(action)


def direction(obs, a, t):
    return -a


def test_a_bounded_critic_goes_to_workers():
    pair = Flow(direction, (1, 1)), bounded(preference, -2.0, 2.0)
    copied = ForkingPickler.loads(ForkingPickler.dumps(pair))
    assert copied[1].clip is pair[1].clip
    options = {"task": "toy:make_task", "progress": False, "processes": 2}
    (found,) = evaluate(pair, [method("qgf", weight=0.1, steps=2)], range(12), **options)
    assert [e.error for e in found] == [""] * 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair: evaluate(pair, ["flow"], [0], task="toy:make_task"), "list of `Sampler`s"),
        (lambda pair: evaluate(pair, method("flow"), [0], task="toy:make_task"), "`Sampler`s"),
        (lambda pair: evaluate(pair, [method("flow")], [0], task=preference), "function .*call it"),
        (lambda pair: compare(pair, ["flow"], task="toy:make_task", episodes=1), "must be a list"),
        (lambda pair: compare([pair], "flow", task="toy:make_task", episodes=1), "must be a list"),
        (lambda pair: compare([pair], ["flow"], task=preference, episodes=1), "call it"),
        (
            lambda pair: compare([pair], ["qgf"], task="toy:make_task", weights=1.0, episodes=1),
            "several weights, such as .1.0.",
        ),
        (lambda pair: method("qgf", weight="0.3"), "`weight` must be a number"),
        (lambda pair: evaluate((pair[0], 3), [method("flow")], [0]), "whose critic cannot be"),
    ],
)
def test_what_is_not_what_it_must_be_is_named(call, message, unchecked):
    with pytest.raises(TypeError, match=message):
        call(networks(0.1)[0])


def test_a_loaded_policy_goes_into_the_callers_own_vmap_and_jit(run):
    act, obs = load_policy(run, method("qgf", weight=0.3, steps=2)), np.ones((3, 2))
    keys = jax.random.split(jax.random.key(0), 3)
    wanted = [act(o, k) for o, k in zip(obs, keys, strict=True)]
    for batched in (jax.vmap(act), jax.jit(jax.vmap(act))):
        np.testing.assert_allclose(batched(obs, keys), wanted, rtol=1e-5, atol=1e-6)


def test_without_a_weight_a_verb_takes_one_from_the_starting_weight_and_says_so(
    run, capsys, tmp_path
):
    from qgf_eqx.evaluate._auto import start_of
    from qgf_eqx.evaluate._sources import as_source

    start = 0.3 * start_of(as_source(run), "toy:make_array_task", jnp.min)
    arguments = ["film", str(run), "--episodes", "1", "--steps", "2", "--methods", "qgf"]
    cli.main([*arguments, "--out", str(tmp_path / "a.webp")])
    assert f"Weight {start:.2g}, a guess" in capsys.readouterr().out
    cli.main(["film", str(run), *arguments[2:-1], "flow", "--out", str(tmp_path / "b.webp")])
    assert "Weight" not in capsys.readouterr().out
    cli.main(["export", str(run), "--steps", "2", "--out", str(tmp_path / "p.zip"), "--quiet"])
    with zipfile.ZipFile(tmp_path / "p.zip") as file:
        assert json.loads(file.read("metadata.json"))["weight"] == f"{float(f'{start:.2g}')}"


def test_a_run_of_recorded_data_alone_is_loaded_and_exported_without_a_task(tmp_path, capsys):
    import toy

    from qgf_eqx.data import open_dataset  # noqa: F401
    from qgf_eqx.learn import TrainConfig, learners, train

    data = dataset_of(toy.make_array_task())
    small = {"updates": 2, "batch": 8, "horizon": 2, **learners(width=8, depth=1)}
    train(TrainConfig("my robot", **small), data, tmp_path / "run", progress=False)
    sampler = method("qgf", weight=0.3, steps=2)
    chunk = load_policy(tmp_path / "run", sampler)(np.ones(2), jax.random.key(0))
    found = open_policy(tmp_path / "run", sampler)
    assert chunk.shape == (2, 1) and found.obs.shape == (2,)
    np.testing.assert_array_equal(found.draw(jnp.ones(2), jax.random.key(0)), chunk)
    options = ["--weight", "0.3", "--steps", "2", "--quiet", "--out", str(tmp_path / "p.zip")]
    cli.main(["export", str(tmp_path / "run"), *options])
    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path / "run"), *options[2:]])
    assert "give --weight" in capsys.readouterr().err
    np.savez(tmp_path / "own.npz", **data._asdict())
    seen = ["--data", str(tmp_path / "own.npz"), "--quiet", "--steps", "2"]
    cli.main(["diagnose", str(tmp_path / "run"), *seen])  # the weight by the data
    assert "The starting weight" in capsys.readouterr().out
    cli.main(["choose", str(tmp_path / "run"), "--budget", "10", *seen])
    assert "The weight: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["choose", str(tmp_path / "run"), "--budget", "10", *seen[2:]])
    assert "recorded data alone, name them: --data FILE" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`my robot`"):
        evaluate(str(tmp_path / "run"), [sampler], [0], progress=False)

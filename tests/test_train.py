import dataclasses
import errno
import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qgf_eqx import checkpoint, objectives
from qgf_eqx.checkpoint import CheckpointError
from qgf_eqx.data import Dataset, DatasetError, draw_chunks, draw_starts, time_limit_masks
from qgf_eqx.learn import (
    RunError,
    Spec,
    TrainConfig,
    Units,
    _trained,
    _updates,
    learners,
    load_run,
    loop,
    make_updates,
    read_config,
    read_metrics,
    train,
    update_team,
)
from qgf_eqx.learn import run as module
from qgf_eqx.learn.actors import BC
from qgf_eqx.learn.critics import IQL

pytestmark = pytest.mark.usefixtures("loose_promotion")


def substitutes(settings):
    """The settings with one of them replaced, or taken away, or one more; and what are none."""
    yield from (None, True, 5, "x", [], {}, [settings], settings | {"more": 1})
    for name in settings:
        yield {n: v for n, v in settings.items() if n != name}
        for other in (None, True, -1, 0, 2.5, 1e999, "", "x", [], {}, 10**400):
            yield settings | {name: other}


def changed(config, **settings):
    """With other settings, of the run or of its learners."""
    own = {field.name for field in dataclasses.fields(TrainConfig)}
    kept = {name: settings.pop(name) for name in [*settings] if name in own}
    of = lambda kind: {field.name for field in dataclasses.fields(kind)} & settings.keys()  # noqa: E731
    pick = lambda one: {name: settings[name] for name in of(type(one))}  # noqa: E731
    assert not settings.keys() - of(IQL) - of(BC)
    critic = dataclasses.replace(config.critic, **pick(config.critic))
    actors = {n: dataclasses.replace(one, **pick(one)) for n, one in config.actors.items()}
    return dataclasses.replace(config, **{"critic": critic, "actors": actors} | kept)


CONFIG = TrainConfig("e", updates=12, batch=8, horizon=2, gamma=0.9, **learners(width=8, depth=2))
SPEC = Spec(3, (2, 2))
SHALLOW = changed(CONFIG, depth=1, learning_rate=0.02)
SMALL = changed(CONFIG, depth=1, critics=1)  # compiles in a third of the time


def data(rows=60):
    rng = np.random.default_rng(0)
    terminals = np.zeros(rows, np.float32)
    terminals[[rows // 2, rows - 1]] = 1
    solved = rng.uniform(size=rows) < 0.1
    return Dataset(
        rng.normal(size=(rows, 3)).astype(np.float32),
        rng.uniform(-1, 1, size=(rows, 2)).astype(np.float32),
        solved.astype(np.float32) - 1,
        solved.astype(np.float32),
        terminals,
    )


def run(folder, config=CONFIG, **options):
    return train(config, data(), folder, **({"updates_per_call": 3, "save_every": 6} | options))


@contextmanager
def shared_loops():
    """Runs of the same units and config, but for its length, share one compiled loop."""
    real, loops = module.make_updates, {}

    def make_updates(config, spec, units, seeds, *rest):
        key = (
            json.dumps(changed(config, updates=1).as_dict()),
            spec,
            *(number.tobytes() for number in jax.tree.leaves(units)),
            *seeds,
        )
        if key not in loops:
            loops[key] = real(config, spec, units, seeds, *rest)
        return loops[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make_updates", make_updates)
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with shared_loops():
        yield


def update(state, chunks, key, config):
    return eqx.filter_jit(partial(update_team, config.team, SPEC))(state, chunks, key)


def init(config, spec=SPEC):
    return eqx.filter_jit(lambda: _updates.init(config, spec))()


def updates_of(config, spec=SPEC):
    """Those of one seed, whose states have no leading axis."""
    many = make_updates(config, spec, Units(None, None))

    def updates(source, state, count):
        state, sums = many(source, _updates.stacked([state]), count)
        return _updates.one_of(state, 0), {name: total[0] for name, total in sums.items()}

    return updates


def nets_of(state):
    """By the names of old: the flow, the critics, the value and the critics' average."""
    (critic, value), target = state.nets["critic"]
    return {
        "policy": state.nets["flow"].trained,
        "critic": critic,
        "value": value,
        "target": target,
    }


def arrays_of(folder):
    """All arrays of a run."""
    return eqx.filter(load_run(folder).saved.state, eqx.is_array)


@functools.cache
def first_chunks():
    source = jax.tree.map(jnp.asarray, data())
    draw = eqx.filter_jit(draw_chunks)
    return draw(source, 0, jnp.zeros((), jnp.int32), batch=8, horizon=2, gamma=0.9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("run")
    run(folder)
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("half")
    run(folder, changed(CONFIG, updates=6))
    return folder


@pytest.fixture
def halfway(half, tmp_path):
    """The folder of a run that has made 6 of its 12 updates."""
    return Path(shutil.copytree(half, tmp_path / "halfway"))


def test_the_rate_of_a_slow_training_keeps_its_digits(tmp_path, monkeypatch):
    """Rounded to a tenth, a third of an update a second would plan a suite with 0.3."""
    ticks = iter(np.arange(0.0, 100, 3).tolist())
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(module, "_next_count", lambda count, seconds: 1)
    train(changed(CONFIG, updates=2), data(), tmp_path / "run", updates_per_call=2)
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert line["updates_per_second"] == 0.1333  # two updates in five steps of the clock


def test_a_run_is_a_folder_of_three_files(finished):
    assert {p.name for p in finished.iterdir()} == {
        ".lock",
        "checkpoint.safetensors",
        "config.json",
        "metrics.jsonl",
    }
    assert json.loads((finished / "config.json").read_text()) == CONFIG.as_dict()
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    losses = {"flow/flow_loss", "critic/critic_loss", "critic/value_loss"}
    assert set(lines[0]) == losses | {"step", "updates_per_second"}


def test_the_networks_are_read_back_from_the_folder(finished):
    found = load_run(finished)
    assert found.config == CONFIG and found.policy.action_shape == (2, 2) and found.step == 12
    obs, action = jnp.ones(3), jnp.zeros((2, 2))
    nets = nets_of(found.saved.state)
    np.testing.assert_array_equal(found.policy(obs, action, 0.5), nets["policy"](obs, action, 0.5))
    np.testing.assert_array_equal(found.values(obs, action), nets["target"].values(obs, action))
    np.testing.assert_array_equal(found.value(obs), nets["value"](obs))
    used = data().actions[data().episode_end == 0]
    np.testing.assert_array_equal(found.critic.low, used.min(0))
    np.testing.assert_array_equal(found.critic.high, used.max(0))


def test_one_update_is_all_gradients_then_the_average():
    state, chunks = init(SHALLOW), first_chunks()
    key = jax.random.key(5)
    after, metrics = update(state, chunks, key, SHALLOW)
    nets = SimpleNamespace(**nets_of(state))
    keys = jax.random.split(loop._key_of(key, "flow"), 8)
    optimizer = optax.adam(0.02)

    def mean(one):
        return jnp.mean(chunks.weight * jax.vmap(one)(chunks, keys))

    def flow_loss(policy):
        return mean(lambda c, k: objectives.flow_matching(policy, c.obs, c.action, k))

    def critic_loss(critic):
        def one(c, _):
            backup = c.reward + c.discount * nets.value(c.next_obs)
            return jnp.mean(jnp.square(critic.values(c.obs, c.action) - backup))

        return mean(one)

    def value_loss(value):
        def one(c, _):
            return objectives.expectile_loss(nets.target(c.obs, c.action) - value(c.obs), 0.9)

        return mean(one)

    each = {"policy": flow_loss, "critic": critic_loss, "value": value_loss}

    @eqx.filter_jit
    def by_hand(nets):
        found = {}
        for name, loss in each.items():
            before = nets[name]
            value, gradient = eqx.filter_value_and_grad(loss)(before)
            memory = optimizer.init(eqx.filter(before, eqx.is_array))
            changes, _ = optimizer.update(gradient, memory)
            found[name] = value, eqx.apply_updates(before, changes)
        return found

    for name, (value, expected) in by_hand(nets_of(state)).items():
        metric = metrics["flow/flow_loss" if name == "policy" else f"critic/{name}_loss"]
        np.testing.assert_allclose(metric, value, rtol=1e-5)
        for a, b in zip(
            jax.tree.leaves(eqx.filter(nets_of(after)[name], eqx.is_array)),
            jax.tree.leaves(eqx.filter(expected, eqx.is_array)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    average = objectives.polyak(nets.target, nets_of(after)["critic"], 0.005)
    assert eqx.tree_equal(nets_of(after)["target"], average, rtol=1e-5, atol=1e-7)


def test_chunks_of_weight_zero_change_nothing():
    state = init(SHALLOW)
    chunks = first_chunks()._replace(weight=jnp.asarray([1.0, 0, 1, 0, 1, 0, 1, 0]))
    poisoned = chunks._replace(reward=jnp.where(chunks.weight == 0, 1e6, chunks.reward))
    one, _ = update(state, chunks, jax.random.key(0), SHALLOW)
    other, _ = update(state, poisoned, jax.random.key(0), SHALLOW)
    assert eqx.tree_equal(one, other)


def test_many_updates_in_one_call_are_the_same_as_one_by_one(tmp_path, finished):
    one_by_one = arrays_of(run(tmp_path, updates_per_call=1).parent)
    assert eqx.tree_equal(one_by_one, arrays_of(finished))


def test_stopped_and_resumed_gives_the_same_bits(tmp_path, finished):
    run(tmp_path, changed(CONFIG, updates=6))
    path = run(tmp_path)
    assert path.read_bytes() == (finished / "checkpoint.safetensors").read_bytes()
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [3, 6, 9, 12]


def test_streamed_from_files_is_the_run_in_memory(tmp_path, finished):
    mapped = {}
    for name, field in data()._asdict().items():
        np.save(tmp_path / f"{name}.npy", field, allow_pickle=False)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    options = {"updates_per_call": 5, "save_every": 10, "streamed": True}
    path = train(CONFIG, Dataset(**mapped), tmp_path / "run", **options)
    assert eqx.tree_equal(arrays_of(path.parent), arrays_of(finished), rtol=1e-5, atol=1e-6)


def test_however_updates_are_split_into_calls_the_bits_are_the_same(
    tmp_path, finished, monkeypatch
):
    for name, seconds, streamed in (
        ("slow", 0.0, False),
        ("fast", 1e9, False),
        ("read", 0.0, True),
    ):
        monkeypatch.setattr(module, "SECONDS", seconds)  # of one update each; of ever more
        for config in (changed(CONFIG, updates=5), CONFIG):
            options = {"updates_per_call": 5, "streamed": streamed}
            path = train(config, data(), tmp_path / name, **options)
        close = {"rtol": 1e-5, "atol": 1e-6} if streamed else {}  # of another program
        assert eqx.tree_equal(arrays_of(path.parent), arrays_of(finished), **close)
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        assert [line["step"] for line in lines] == [5, 10, 12]
        lines = [{k: v for k, v in x.items() if k != "updates_per_second"} for x in lines]
        first = lines if name == "slow" else first  # noqa: F821
        # The means are of equal losses, but one program may sum them in another order.
        assert all(
            line == pytest.approx(other, rel=1e-6) for line, other in zip(lines, first, strict=True)
        )


def test_a_line_of_metrics_is_the_mean_of_its_updates(tmp_path, finished):
    run(tmp_path, updates_per_call=1)
    each = read_metrics(tmp_path / "metrics.jsonl")
    for i, line in enumerate(read_metrics(finished / "metrics.jsonl")):
        for name in ("flow/flow_loss", "critic/critic_loss", "critic/value_loss"):
            mean = np.mean([x[name] for x in each[3 * i : 3 * i + 3]])
            np.testing.assert_allclose(line[name], mean, rtol=1e-5)


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.1, 1.0, 4.0, 40.0])
def test_a_call_of_any_size_of_update_takes_seconds(seconds):
    count, took = 1, []
    for _ in range(40):
        took.append(count * seconds)
        count = module._next_count(count, took[-1])
    assert max(took) <= max(module.SECONDS, seconds)
    assert took[-1] >= min(module.SECONDS / 4, 500 * seconds)


def test_metrics_cut_mid_line_are_mended_on_resume(tmp_path):
    run(tmp_path, changed(CONFIG, updates=6))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "flow_loss": 1}\n{"step": 12, "flo')
    run(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6, 9, 12]


@pytest.mark.parametrize(
    "line",
    [
        b"5",
        b"{}",
        b'"step"',
        b"null",
        b'{"step": "9"}',
        b'{"step": true}',
        b'{"step": null}',
        b"\xff\xfe{",
        b"[" * 10**5,
        b"\x00",
        b'{"step": 1e5}',
        b'{"step": 3, "flow_loss": 1}',
    ],
)
def test_a_damaged_line_of_metrics_is_dropped(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 3, "flow_loss": 2}\n' + line + b'\n{"step": 6}\n{"step": 9}\n')
    module.MetricsLog(path, 6).append({"step": 9})
    assert [x["step"] for x in map(json.loads, path.read_bytes().splitlines())] == [3, 6, 9]


def test_a_finished_run_is_left_alone(finished):
    before = (finished / "checkpoint.safetensors").read_bytes()
    run(finished)
    assert (finished / "checkpoint.safetensors").read_bytes() == before


def test_a_folder_of_other_settings_is_refused_with_the_difference(finished):
    with pytest.raises(RunError, match=r"`gamma` 0.9 -> 0.5, `seed` 0 -> 1"):
        run(finished, changed(CONFIG, gamma=0.5, seed=1))


def test_fewer_updates_than_were_made_are_refused(finished):
    before = (finished / "config.json").read_bytes()
    with pytest.raises(RunError, match="has made 12 updates, more than `updates` 11. Choose"):
        run(finished, changed(CONFIG, updates=11))
    assert (finished / "config.json").read_bytes() == before


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with module.alone_in(tmp_path), pytest.raises(RunError, match="another process is training"):
        run(tmp_path)


def test_a_run_that_was_extended_saves_as_often_as_before(tmp_path, monkeypatch):
    saves = []
    real = checkpoint.as_bytes
    monkeypatch.setattr(
        checkpoint, "as_bytes", lambda s, m: (saves.append(int(s.state.step)), real(s, m))[1]
    )
    options = {"updates_per_call": 5, "save_every": 4}
    run(tmp_path, changed(CONFIG, updates=7), **options)
    run(tmp_path, changed(CONFIG, updates=20), **options)
    assert saves == [4, 7, 8, 12, 16, 20]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "`batch` must be at least 1, got 0"),
        ({"updates": 0}, "`updates` must be at least 1"),
        ({"depth": -1}, "`depth` must be at least 1"),
        ({"gamma": 2.0}, r"`gamma` must be in \(0, 1\], got 2.0"),
        ({"expectile": float("nan")}, r"`expectile` must be in \(0, 1\), got nan"),
        ({"expectile": 1.0}, r"`expectile` must be in \(0, 1\), got 1.0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be positive"),
        ({"learning_rate": float("inf")}, "`learning_rate` must be positive and finite, got inf"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be positive and finite, got nan"),
        ({"learning_rate": 10**400}, "`learning_rate` must be float"),
        ({"updates": 2**31}, "`updates` must be below 2"),
        ({"depth": 1001}, "`depth` must be at most 1000, got 1001"),
        ({"critics": 10**9}, "`critics` must be at most 1000"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"seed": 2**31}, "`seed` must be below"),
        ({"env": ""}, "`env` must be a name, got an empty text"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(change, message, unchecked):
    with pytest.raises(RunError, match=message):
        changed(CONFIG, **change)


PLAIN = [
    field
    for kind in (TrainConfig, IQL, BC)
    for field in dataclasses.fields(kind)
    if field.type in (int, float, bool, str)
]


@pytest.mark.parametrize("field", PLAIN, ids=lambda field: field.name)
def test_a_setting_of_a_wrong_type_is_refused_by_name(field, unchecked):
    wrong = {
        int: [2.5, 2.0, True, "0", None, float("nan"), [1], np.float32(2), np.bool_(True), 1j],
        float: [True, "0.5", None, [0.5], np.bool_(True), 1j, np.ones(1)],
        bool: [0, 1, "True", None, float("nan"), np.float32(1)],
        str: [0, None, True, b"e", ["e"], float("nan")],
    }
    for value in wrong[field.type]:
        with pytest.raises(RunError, match=f"`{field.name}` must be {field.type.__name__}, got "):
            changed(CONFIG, **{field.name: value})


def test_numbers_of_numpy_are_plain_numbers(unchecked):
    given = {"seed": np.int64(3), "gamma": 1, "expectile": np.float32(0.5), "paper_time": np.True_}
    config = changed(CONFIG, **given)
    of = {"expectile": config.critic, "paper_time": config.actors["flow"]}
    assert {n: type(getattr(of.get(n, config), n)) for n in given} == {
        "seed": int,
        "gamma": float,
        "expectile": float,
        "paper_time": bool,
    }
    json.dumps(config.as_dict())


def test_a_damaged_checkpoint_is_not_trained_on(halfway):
    path = halfway / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        run(halfway)
    assert path.read_bytes() == data


def test_divergence_is_reported_and_the_checkpoint_kept(tmp_path):
    bad = data()
    bad.rewards[:] = 1e30
    with pytest.raises(
        RunError, match="training of seed 0 diverged before update 3.*lower learning rate"
    ):
        train(CONFIG, bad, tmp_path, updates_per_call=3)
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("harm", ["parameter", "optimiser"])
def test_a_state_that_is_not_finite_is_never_saved(halfway, harm, monkeypatch):
    path = halfway / "checkpoint.safetensors"
    before = path.read_bytes()
    where = {
        "parameter": lambda s: s.nets["flow"].trained.mlp.head.bias,
        "optimiser": lambda s: s.optimizers["critic"][0].nu[0].members[0].mlp.head.bias,
    }[harm]
    real = module.make_updates

    def diverging(*made):
        updates = real(*made)

        def spoiled(*arguments):  # in the last update of a call: no loss has seen it
            state, sums = updates(*arguments)
            return eqx.tree_at(where, state, where(state) * jnp.inf), sums

        return spoiled

    monkeypatch.setattr(module, "make_updates", diverging)
    with pytest.raises(RunError, match="of seed 0 diverged before update 7: .* not finite"):
        run(halfway, changed(CONFIG, updates=7))
    assert path.read_bytes() == before


def test_a_diverging_run_keeps_its_good_checkpoint(tmp_path):
    config = changed(SMALL, updates=40, learning_rate=1e30)
    with pytest.raises(RunError, match="diverged"):
        run(tmp_path, config, save_every=1)
    if (tmp_path / "checkpoint.safetensors").exists():
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(arrays_of(tmp_path)))


def held(path):
    """What a checkpoint holds, and its metadata."""
    saved = _trained.read_saved(path)
    return _trained.SavedState(saved.state, saved.units), checkpoint.read_metadata(path)


def test_a_diverged_checkpoint_is_not_trained_on(halfway):
    path = halfway / "checkpoint.safetensors"
    state, metadata = held(path)
    checkpoint.save(
        path, jax.tree.map(lambda x: x * np.nan if eqx.is_inexact_array(x) else x, state), metadata
    )
    with pytest.raises(RunError, match="is of a run that diverged"):
        run(halfway)


@pytest.mark.parametrize("change", [{"env": "f"}, {"seed": 1}, {"gamma": 0.5}, {"critics": 3}])
def test_a_foreign_checkpoint_is_refused_by_the_setting(halfway, change):
    (halfway / "config.json").unlink()  # as if the checkpoint had been copied into a new folder
    path = halfway / "checkpoint.safetensors"
    before, other = path.read_bytes(), changed(CONFIG, **change)
    with pytest.raises(
        RunError, match=f"{path} is of .* other settings: `(critic.)?{next(iter(change))}`"
    ):
        run(halfway, other)
    assert path.read_bytes() == before and not (halfway / "config.json").exists()


@pytest.mark.parametrize("field", Dataset._fields)
def test_a_run_is_not_resumed_on_other_data(halfway, field):
    path = halfway / "checkpoint.safetensors"
    before, other = path.read_bytes(), data()
    getattr(other, field).flat[-2] += 1
    with pytest.raises(RunError, match=f"was trained on other data: `{field}` differ"):
        train(CONFIG, other, halfway)
    assert path.read_bytes() == before
    fewer = Dataset(*(array[:-1] for array in data()))
    with pytest.raises(RunError, match="other data: `obs`, `actions`, .*`episode_end` differ"):
        train(CONFIG, fewer, halfway)


def test_a_checkpoint_that_does_not_say_its_data_goes_on_with_a_warning(halfway, finished):
    path = halfway / "checkpoint.safetensors"
    state, metadata = held(path)
    del metadata["data"]
    checkpoint.save(path, state, metadata)
    with pytest.warns(UserWarning, match="older version, which did not record its data"):
        run(halfway)
    assert path.read_bytes() == (finished / "checkpoint.safetensors").read_bytes()


def test_a_checkpoint_of_another_tree_is_one_sentence(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    metadata = {"config": CONFIG.as_dict()}
    known = metadata | {"spec": SPEC._asdict()}
    broken = [known | {"spec": wrong} for wrong in (5, {}, {"x": 1}, {"obs_size": "x"})]
    for kept in (
        metadata,
        known,
        {},
        {"config": 5},
        metadata | {"data": {"rewards": "x"}},
        *broken,
    ):
        checkpoint.save(path, {"w": jnp.ones(2)}, kept)
        with pytest.raises((CheckpointError, RunError)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(tmp_path)
        with pytest.raises((CheckpointError, RunError)):
            load_run(tmp_path)


def test_too_few_transitions_for_a_chunk_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="fewer than a chunk"):
        run(tmp_path, changed(CONFIG, horizon=40))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"env": "e", "widht": 3}, "unknown setting `widht`; known are env, updates"),
        ({"env": "e", "critic": {"kind": "iql", "x": 3}}, "unknown setting `x` of `iql`; known"),
        ({"env": "e", "critic": {"kind": "x"}}, "unknown learner `x`; known are dqc, iql"),
        ({"env": "e", "critic": {"kind": "flow"}}, "`critic` must be a critic"),
        ({"env": "e", "actors": {"a": {"kind": "iql"}}}, "`actors` .* `a` is not"),
        ({"env": "e", "critic": 5}, "holds no learner"),
        ({"env": "e", "actors": 5}, "holds no actors"),
        ({"env": "e", "actors": {"a": {"kind": "no.such:Thing"}}}, "no module `no`"),
        ({"env": "e", "actors": {"a": {"kind": "numpy:Thing"}}}, "`Thing` is not a dataclass of"),
        ({"env": "e", "critic": {"kind": "td"}}, "`next_actor` must name"),
        ({"env": "e", "width": 8, "actors": {}}, "has learners, and settings that are theirs"),
        ({"env": "e", "width": "3"}, "`width` must be int, got '3'"),
        ({"env": "e", "width": True}, "`width` must be int, got True"),
        ({"width": 3}, "does not name its `env`"),
        ([], "holds no config"),
    ],
)
def test_a_bad_config_is_refused_by_key(found, message):
    with pytest.raises(RunError, match=message):
        read_config(found, "config.json")


OLD = {"env": "e", "updates": 12, "batch": 8, "horizon": 2, "width": 8, "depth": 2, "gamma": 0.9}


def test_settings_that_are_the_learners_now_are_read_and_taken_with_a_warning():
    """What older versions wrote, and what programs pass."""
    own = {"expectile": 0.7, "critics": 3, "ema_rate": 0.1, "paper_time": True}
    wanted = changed(CONFIG, **own)
    assert read_config(OLD | own, "config.json") == wanted
    older = {n: v for n, v in own.items() if n != "expectile"} | {"tau": 0.7}
    assert read_config(OLD | older, "config.json") == wanted
    with pytest.raises(RunError, match="config.json has `tau` and its new name, `expectile`"):
        read_config(OLD | own | {"tau": 0.7}, "config.json")
    with pytest.raises(RunError, match="config.json: `expectile` must be float"):
        read_config(OLD | {"tau": "0.7"}, "config.json")
    with pytest.warns(
        DeprecationWarning, match="`width`, `depth`, .*`expectile`.* of its learners"
    ):
        assert TrainConfig(**OLD, **own) == wanted
    with pytest.warns(DeprecationWarning, match="`tau`"):
        assert TrainConfig(**OLD, **older) == wanted


OLD_RUNS = Path(__file__).parent / "old_runs"


def old_run(name, tmp_path):
    """A copy of an old run's folder, and the run, which answers as it did when it was saved."""
    folder = Path(shutil.copytree(OLD_RUNS / name, tmp_path / "run"))
    found, expected = load_run(folder), json.loads((folder / "expected.json").read_text())
    obs, action = jnp.asarray([0.3, -0.2, 0.5]), jnp.asarray([[0.1, -0.4], [0.6, 0.2]])
    answers = {
        "velocity": found.policy(obs, action, 0.3),
        "values": found.values(obs, action),
        "online": found._judges.online(found._encoder(obs) if found._encoder else obs, action),
        "value": found.value(obs),
        "action": found.units.to_action(action),
    }
    if "fql-3" in expected:
        answers["fql-3"] = found.actor("fql-3").act(obs, jax.random.key(0))
    assert answers.keys() == expected.keys()
    for known, value in answers.items():
        np.testing.assert_allclose(value, expected[known], rtol=1e-5, atol=1e-6)
    return folder, found


@pytest.mark.parametrize("name", ["plain", "normalised"])
def test_a_run_of_version_0_1_is_read_and_goes_on(name, tmp_path):
    folder, found = old_run(name, tmp_path)
    assert found.step == 6 and found.config.critic.expectile == 0.7
    before = found.saved.state
    run(folder, dataclasses.replace(found.config, updates=9), save_every=9)
    after = load_run(folder)
    assert after.step == 9 and "critic/critic_loss" in read_metrics(folder / "metrics.jsonl")[-1]
    counts = [after.saved.state.optimizers[n][0].count for n in ("critic", "flow")]
    assert counts == [9, 9] and not eqx.tree_equal(after.saved.state.nets, before.nets)


def test_a_run_whose_layers_were_equinoxs_is_read_and_goes_on(tmp_path):
    """Their weights lay as (out, in)."""
    folder, found = old_run("team", tmp_path)
    run(folder, dataclasses.replace(found.config, updates=9), save_every=9)
    after = load_run(folder)
    counts = [after.saved.state.optimizers[n][0].count for n in ("critic", "flow", "fql-3")]
    assert after.step == 9 and counts == [9, 9, 9]


def test_a_config_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="is not JSON"):
        run(tmp_path)


def test_any_json_in_a_config_is_refused_or_the_same(tmp_path):
    path, plain = tmp_path / "config.json", CONFIG.as_dict()
    texts = [json.dumps(other).encode() for other in substitutes(plain)]
    for text in [*texts, b"[" * 10**5, b"NaN", b"\xff\xfe", b"", b"\0"]:
        path.write_bytes(text)
        try:
            module._claim(path, CONFIG)
        except RunError as error:
            assert str(path) in str(error)
        else:
            found = read_config(json.loads(text), path).as_dict() | {"updates": 12}
            assert found == plain


class Refusing:
    """A stand-in for `fcntl.flock` on a file system that answers with an error."""

    def __init__(self, number):
        self.number = number

    def __call__(self, *_):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.EWOULDBLOCK, "another process is training in"), (errno.EAGAIN, "another process")]
    + [
        (number, f"cannot lock files .{os.strerror(number)}.*a local disk")
        for number in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF, errno.EIO)
    ],
)
def test_a_lock_that_is_not_held_by_another_says_what_is_wrong(
    tmp_path, monkeypatch, number, message
):
    monkeypatch.setattr(fcntl, "flock", Refusing(number))
    with pytest.raises(RunError, match=message):
        run(tmp_path / "new" / "run")
    assert not any(tmp_path.iterdir())  # no empty folders


@pytest.mark.parametrize(
    "name", [".lock", "config.json", "metrics.jsonl", "checkpoint.safetensors"]
)
def test_a_folder_in_the_place_of_a_file_is_one_sentence(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises((RunError, CheckpointError), match="cannot be read"):
        run(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("long" * 100)):
        with pytest.raises(RunError, match="cannot be read or written"):
            run(folder)


def test_a_full_disk_is_one_sentence_and_what_was_saved_is_kept(halfway, monkeypatch):
    path = halfway / "checkpoint.safetensors"
    before, real = path.read_bytes(), os.fsync

    def full(descriptor):
        if "checkpoint" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device.*is intact"):
        run(halfway)
    assert path.read_bytes() == before and not list(halfway.glob(".*.tmp"))


def test_names_beyond_ascii_links_and_leftovers(tmp_path, finished):
    real = tmp_path / "Läufe 実験"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    (real / ".checkpoint.safetensors.123.tmp").write_text("half")
    (real / ".folder.tmp").mkdir()
    path = run(tmp_path / "link")
    assert path.read_bytes() == (finished / "checkpoint.safetensors").read_bytes()
    assert [p.name for p in real.glob(".*.tmp")] == [".folder.tmp"]


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_run(tmp_path)


def test_the_papers_time_is_kept_with_the_run(tmp_path):
    config = changed(SMALL, paper_time=True, updates=3)
    run(tmp_path, config)
    found = load_run(tmp_path)
    assert found.config == config and found.policy.embed.__name__ == "paper_time"


def test_the_update_has_the_discount_batch_seed_and_expectile_of_the_config():
    """One compiled update against one that is put together here from the config's numbers."""
    config = changed(SHALLOW, gamma=0.8, expectile=0.7, seed=3, ema_rate=0.1)
    source, state = jax.tree.map(jnp.asarray, data()), init(config)
    nets = SimpleNamespace(**nets_of(state))
    sizes = {"batch": config.batch, "horizon": config.horizon, "gamma": config.gamma}
    chunks = eqx.filter_jit(draw_chunks)(source, config.seed, state.step, **sizes)
    # At first the target is the critic; later it is not.
    nets.target = jax.tree.map(lambda x: 2 * x if eqx.is_array(x) else x, nets.target)
    of_critic = state.nets["critic"]._replace(kept=nets.target)
    state = state._replace(nets={**state.nets, "critic": of_critic})

    def critic_loss(c):
        backup = c.reward + c.discount * nets.value(c.next_obs)
        return c.weight * jnp.mean(jnp.square(nets.critic.values(c.obs, c.action) - backup))

    def value_loss(c):
        difference = nets.target(c.obs, c.action) - nets.value(c.obs)
        return c.weight * jnp.where(difference < 0, 0.3, 0.7) * jnp.square(difference)

    expected = {
        "critic_loss": jnp.mean(jax.jit(jax.vmap(critic_loss))(chunks)),
        "value_loss": jnp.mean(jax.jit(jax.vmap(value_loss))(chunks)),
    }
    moved = jax.tree.map(jnp.copy, eqx.filter(nets.target, eqx.is_array))
    after, metrics = updates_of(config)(source, state, 1)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[f"critic/{name}"], value, rtol=1e-5)
    online = eqx.filter(nets_of(after)["critic"], eqx.is_array)
    moved = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, moved, online)
    assert eqx.tree_equal(
        eqx.filter(nets_of(after)["target"], eqx.is_array), moved, rtol=1e-5, atol=1e-6
    )


def test_with_time_limit_masks_training_is_that_on_a_dataset_of_those_masks(tmp_path, finished):
    config = changed(CONFIG, time_limit_masks=True)
    with_flag = arrays_of(run(tmp_path / "flag", config).parent)
    options = {"updates_per_call": 3, "save_every": 6}
    masked = train(CONFIG, time_limit_masks(data()), tmp_path / "masked", **options)
    assert eqx.tree_equal(with_flag, arrays_of(masked.parent))
    assert not eqx.tree_equal(with_flag, arrays_of(finished))


def test_the_noise_of_an_update_is_its_own():
    """The same networks and the same batch in another update, or with another seed."""
    row = jax.tree.map(lambda field: np.repeat(field[:1], 60, axis=0), data())
    source = jax.tree.map(jnp.asarray, row)

    found = set()
    for seed, steps in ((0, (0, 1)), (1, (0,))):
        updates = updates_of(changed(CONFIG, seed=seed))
        for step in steps:
            state = init(CONFIG)._replace(step=jnp.asarray(step, jnp.int32))
            found.add(float(updates(source, state, 1)[1]["flow/flow_loss"]))
    assert len(found) == 3


def test_another_seed_begins_with_other_networks():
    weights = [
        nets_of(init(changed(CONFIG, seed=seed)))["policy"].mlp.head.kernel for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.all(weights[0] != weights[2])


def test_adam_takes_a_first_step_of_the_learning_rate():
    state, chunks = init(SHALLOW), first_chunks()
    after, _ = update(state, chunks, jax.random.key(0), SHALLOW)
    for name in ("policy", "critic", "value"):
        before, moved = (
            jax.tree.leaves(eqx.filter(nets_of(s)[name], eqx.is_array)) for s in (state, after)
        )
        largest = max(float(jnp.abs(m - b).max()) for b, m in zip(before, moved, strict=True))
        np.testing.assert_allclose(largest, 0.02, rtol=1e-3)


def test_the_streamed_rows_are_those_of_the_runs_seed():
    config = changed(CONFIG, seed=3)
    found = list(_updates.stream(data(), config, [(0, 2), (2, 1)]))
    drawn = [draw_starts(3, jnp.asarray(k), batch=8, rows=60) for k in range(3)]
    starts = [np.stack(drawn[:2]), np.stack(drawn[2:])]
    for rows, expected in zip(found, starts, strict=True):
        np.testing.assert_array_equal(rows.obs[:, 0], data().obs[expected])


def test_what_a_killed_process_left_half_written_is_cleared(tmp_path):
    (tmp_path / ".checkpoint.safetensors.123.tmp").write_bytes(b"half")
    with module.alone_in(tmp_path):
        assert {p.name for p in tmp_path.iterdir()} == {".lock"}


_TRAINING = """
import sys
sys.path.insert(0, "tests")
from test_train import SMALL, data
import dataclasses
from qgf_eqx.learn import train
train(dataclasses.replace(SMALL, updates=int(sys.argv[2])), data(), sys.argv[1],
      updates_per_call=3, save_every=int(sys.argv[3]))
"""


def start(folder, updates, save_every=3):
    arguments = [sys.executable, "-c", _TRAINING, str(folder), str(updates), str(save_every)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE)


def wait_for_progress(folder, steps):
    for _ in range(3000):
        lines = read_metrics(folder / "metrics.jsonl")
        if lines and lines[-1]["step"] >= steps:
            return
        time.sleep(0.1)
    raise TimeoutError("the training does not advance")


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, -signal.SIGINT)], ids=["term", "int"]
)
def test_sigterm_and_ctrl_c_save(tmp_path, sent, code):
    with start(tmp_path, 10**6, save_every=10**6) as process:
        wait_for_progress(tmp_path, 3)
        process.send_signal(sent)
        assert process.wait(300) == code
    assert load_run(tmp_path).step == read_metrics(tmp_path / "metrics.jsonl")[-1]["step"]


def test_sigterm_waits_for_seconds_and_not_for_a_line_of_metrics(tmp_path, monkeypatch):
    real, clock, counts = module.make_updates, [0.0], []

    def slow(*made):
        updates = real(*made)

        def slower(*arguments):
            clock[0] += 0.02 * arguments[2]  # 10 s for the 500 of a line
            counts.append(arguments[2])
            if len(counts) == 6:
                signal.raise_signal(15)
            return updates(*arguments)

        return slower

    monkeypatch.setattr(module, "make_updates", slow)
    monkeypatch.setattr(module, "SECONDS", 0.2)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    with pytest.raises(SystemExit) as left:
        many = {"updates_per_call": 500, "save_every": 10_000}
        run(tmp_path, changed(CONFIG, updates=10_000), **many)
    assert left.value.code == 0 and len(counts) == 6  # none after the signal
    assert max(counts) <= 10  # 0.2 s of updates
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    metadata = checkpoint.read_metadata(tmp_path / "checkpoint.safetensors")
    assert metadata["config"]["updates"] == 10_000 and line["step"] == sum(counts)
    monkeypatch.undo()
    done = line["step"]
    run(tmp_path, changed(CONFIG, updates=done + 4))
    steps = [x["step"] for x in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [done, done + 3, done + 4]


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path):
    updates, rng = 3000, np.random.default_rng(0)
    with start(tmp_path / "calm", updates) as process:
        assert process.wait() == 0
    for _ in range(20):
        with start(tmp_path / "storm", updates) as process:
            time.sleep(rng.uniform(4, 9))
            process.kill()
    with start(tmp_path / "storm", updates) as process:
        assert process.wait() == 0
    calm, storm = (
        (tmp_path / n / "checkpoint.safetensors").read_bytes() for n in ("calm", "storm")
    )
    assert calm == storm

import dataclasses
import json
import signal
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qgf_eqx import checkpoint, objectives
from qgf_eqx import train as module
from qgf_eqx.checkpoint import CheckpointError
from qgf_eqx.datasets import Dataset, DatasetError, draw_chunks
from qgf_eqx.train import RunError, TrainConfig, load_nets, read_config, read_metrics, train

pytestmark = pytest.mark.usefixtures("loose_promotion")

CONFIG = TrainConfig("e", updates=12, batch=8, horizon=2, width=8, depth=2, gamma=0.9)


def data(rows=60):
    rng = np.random.default_rng(0)
    terminals = np.zeros(rows, np.float32)
    terminals[[rows // 2, rows - 1]] = 1
    solved = rng.uniform(size=rows) < 0.1
    return Dataset(
        rng.normal(size=(rows, 3)).astype(np.float32),
        rng.uniform(-1, 1, size=(rows, 2)).astype(np.float32),
        solved.astype(np.float32) - 1,
        1 - solved.astype(np.float32),
        terminals,
    )


def run(folder, config=CONFIG, **options):
    return train(config, data(), folder, **({"updates_per_call": 3, "save_every": 6} | options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("run")
    run(folder)
    return folder


def test_a_run_is_a_folder_of_three_files(finished):
    assert {p.name for p in finished.iterdir()} == {
        ".lock",
        "checkpoint.safetensors",
        "config.json",
        "metrics.jsonl",
    }
    assert json.loads((finished / "config.json").read_text()) == dataclasses.asdict(CONFIG)
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert {"flow_loss", "critic_loss", "value_loss", "updates_per_second"} <= set(lines[0])


def test_the_networks_are_read_back_from_the_folder(finished):
    nets, config = load_nets(finished)
    assert config == CONFIG and nets.policy.action_shape == (2, 2)
    obs = jnp.ones(3)
    assert nets.policy(obs, jnp.zeros((2, 2)), 0.5).shape == (2, 2)
    assert nets.target(obs, jnp.zeros((2, 2))).shape == ()


def test_one_update_is_all_gradients_then_the_average():
    state = module.init(CONFIG, 3, 2)
    chunks = draw_chunks(
        jax.tree.map(jnp.asarray, data()),
        0,
        jnp.zeros((), jnp.int32),
        batch=8,
        horizon=2,
        gamma=0.9,
    )
    key = jax.random.key(5)
    after, metrics = module.update(state, chunks, key, CONFIG)
    nets, keys = state.nets, jax.random.split(key, 8)
    optimizer = optax.adam(CONFIG.learning_rate)

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
            return objectives.expectile(nets.target(c.obs, c.action) - value(c.obs), 0.9)

        return mean(one)

    for name, loss in (("policy", flow_loss), ("critic", critic_loss), ("value", value_loss)):
        before = getattr(nets, name)
        value, gradient = eqx.filter_value_and_grad(loss)(before)
        memory = optimizer.init(eqx.filter(before, eqx.is_array))
        changes, _ = optimizer.update(gradient, memory)
        expected = eqx.apply_updates(before, changes)
        metric = metrics["flow_loss" if name == "policy" else f"{name}_loss"]
        np.testing.assert_allclose(metric, value, rtol=1e-5)
        for a, b in zip(
            jax.tree.leaves(eqx.filter(getattr(after.nets, name), eqx.is_array)),
            jax.tree.leaves(eqx.filter(expected, eqx.is_array)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    average = objectives.polyak(nets.target, after.nets.critic, CONFIG.ema_rate)
    assert eqx.tree_equal(after.nets.target, average, rtol=1e-5, atol=1e-7)


def test_chunks_of_weight_zero_change_nothing():
    state = module.init(CONFIG, 3, 2)
    chunks = draw_chunks(
        jax.tree.map(jnp.asarray, data()),
        0,
        jnp.zeros((), jnp.int32),
        batch=8,
        horizon=2,
        gamma=0.9,
    )
    chunks = chunks._replace(weight=jnp.asarray([1.0, 0, 1, 0, 1, 0, 1, 0]))
    poisoned = chunks._replace(reward=jnp.where(chunks.weight == 0, 1e6, chunks.reward))
    one, _ = module.update(state, chunks, jax.random.key(0), CONFIG)
    other, _ = module.update(state, poisoned, jax.random.key(0), CONFIG)
    assert eqx.tree_equal(one, other)


def test_many_updates_in_one_call_are_the_same_as_one_by_one(tmp_path, finished):
    one_by_one = load_nets(run(tmp_path, updates_per_call=1).parent)[0]
    assert eqx.tree_equal(one_by_one, load_nets(finished)[0], rtol=1e-4, atol=1e-5)


def test_stopped_and_resumed_gives_the_same_bits(tmp_path, finished):
    run(tmp_path, dataclasses.replace(CONFIG, updates=6))
    path = run(tmp_path)
    assert path.read_bytes() == (finished / "checkpoint.safetensors").read_bytes()
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [3, 6, 9, 12]


def test_streamed_from_files_gives_the_same_bits(tmp_path, finished):
    mapped = {}
    for name, field in data()._asdict().items():
        np.save(tmp_path / f"{name}.npy", field, allow_pickle=False)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    options = {"updates_per_call": 3, "save_every": 6, "streamed": True}
    path = train(CONFIG, Dataset(**mapped), tmp_path / "run", **options)
    assert path.read_bytes() == (finished / "checkpoint.safetensors").read_bytes()


def test_metrics_cut_mid_line_are_mended_on_resume(tmp_path):
    run(tmp_path, dataclasses.replace(CONFIG, updates=6))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "flow_loss": 1}\n{"step": 12, "flo')
    run(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6, 9, 12]


def test_a_finished_run_is_left_alone(finished):
    before = (finished / "checkpoint.safetensors").read_bytes()
    run(finished)
    assert (finished / "checkpoint.safetensors").read_bytes() == before


def test_a_folder_of_other_settings_is_refused_with_the_difference(finished):
    with pytest.raises(RunError, match=r"`gamma` 0.9 -> 0.5, `seed` 0 -> 1"):
        run(finished, dataclasses.replace(CONFIG, gamma=0.5, seed=1))


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with module.alone_in(tmp_path), pytest.raises(RunError, match="another process is training"):
        run(tmp_path)


def test_a_run_that_was_extended_saves_as_often_as_before(tmp_path, monkeypatch):
    saves = []
    real = checkpoint.save
    monkeypatch.setattr(
        module.checkpoint, "save", lambda p, s, m: (saves.append(int(s.step)), real(p, s, m))
    )
    options = {"updates_per_call": 5, "save_every": 4}
    run(tmp_path, dataclasses.replace(CONFIG, updates=7), **options)
    run(tmp_path, dataclasses.replace(CONFIG, updates=20), **options)
    assert saves == [4, 7, 11, 15, 19, 20]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "`batch` must be at least 1, got 0"),
        ({"updates": 0}, "`updates` must be at least 1"),
        ({"depth": -1}, "`depth` must be at least 1"),
        ({"gamma": 2.0}, r"`gamma` must be in \(0, 1\], got 2.0"),
        ({"tau": float("nan")}, r"`tau` must be in \(0, 1\]"),
        ({"learning_rate": -1.0}, "`learning_rate` must be positive"),
        ({"seed": -1}, "`seed` must be in"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(change, message):
    with pytest.raises(RunError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_a_damaged_checkpoint_is_not_trained_on(tmp_path):
    path = run(tmp_path, dataclasses.replace(CONFIG, updates=6))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        run(tmp_path)
    assert path.read_bytes() == data


def test_divergence_is_reported_and_the_checkpoint_kept(tmp_path):
    bad = data()
    bad.rewards[:] = 1e30
    with pytest.raises(RunError, match="training diverged before update 3.*lower learning rate"):
        train(CONFIG, bad, tmp_path, updates_per_call=3)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_too_few_transitions_for_a_chunk_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="fewer than a chunk"):
        run(tmp_path, dataclasses.replace(CONFIG, horizon=40))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"env": "e", "widht": 3}, "unknown setting `widht`; known are env, updates"),
        ({"env": "e", "width": "3"}, "`width` must be int, got '3'"),
        ({"env": "e", "width": True}, "`width` must be int, got True"),
        ({"width": 3}, "does not name its `env`"),
        ([], "holds no config"),
    ],
)
def test_a_bad_config_is_refused_by_key(found, message):
    with pytest.raises(RunError, match=message):
        read_config(found, "config.json")


def test_a_config_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="is no JSON"):
        run(tmp_path)


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_nets(tmp_path)


def test_the_papers_time_is_kept_with_the_run(tmp_path):
    config = dataclasses.replace(CONFIG, paper_time=True, updates=3)
    run(tmp_path, config)
    nets, found = load_nets(tmp_path)
    assert found == config and nets.policy.embed.__name__ == "paper_time"


_TRAINING = """
import sys
sys.path.insert(0, "tests")
from test_train import CONFIG, data
import dataclasses
from qgf_eqx.train import train
train(dataclasses.replace(CONFIG, updates=int(sys.argv[2])), data(), sys.argv[1],
      updates_per_call=3, save_every=int(sys.argv[3]))
"""


def start(folder, updates, save_every=3):
    arguments = [sys.executable, "-c", _TRAINING, str(folder), str(updates), str(save_every)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE)


def wait_for_progress(folder, steps):
    for _ in range(600):
        lines = read_metrics(folder / "metrics.jsonl")
        if lines and lines[-1]["step"] >= steps:
            return
        time.sleep(0.1)
    raise TimeoutError("the training does not advance")


def test_sigterm_saves_and_exits_with_zero(tmp_path):
    with start(tmp_path, 10**6, save_every=10**6) as process:
        wait_for_progress(tmp_path, 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    step = checkpoint.load(tmp_path / "checkpoint.safetensors", module.init(CONFIG, 3, 2))[0].step
    assert step == read_metrics(tmp_path / "metrics.jsonl")[-1]["step"]


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

"""Runs that normalise: trained as on data that are normalised by hand, called with real ones."""

import dataclasses
import shutil
from types import SimpleNamespace

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import CONFIG, SPEC, arrays_of, data, init, shared_loops

from qgf_eqx import checkpoint, sample
from qgf_eqx._fields import Bounded, given
from qgf_eqx.checkpoint import CheckpointError
from qgf_eqx.data.normalise import Normaliser, apply, min_max, standardise
from qgf_eqx.evaluate import Task, _offline, load_policy, method
from qgf_eqx.evaluate._sources import InMemory, Run, Values, checkpoint_sha256
from qgf_eqx.evaluate.sampler import Sampler, make_act
from qgf_eqx.learn import RunError, Units, _trained, _units, load_run, train
from qgf_eqx.learn import run as module
from qgf_eqx.nn import Encoded

pytestmark = pytest.mark.usefixtures("loose_promotion")

BOTH = dataclasses.replace(CONFIG, normalise_obs="standardise", normalise_actions="min-max")
OPTIONS = {"updates_per_call": 3, "save_every": 6, "progress": False}


def real():
    """Features far from size one; the last action of an episode, which is not used, is far off."""
    d = data()
    actions = d.actions * np.float32([100, 0.01]) + np.float32([500, 0])
    actions[d.episode_end == 1] = 1e6
    return d._replace(
        obs=d.obs * np.float32([1e3, 1, 1e-3]) + np.float32([1e4, 0, 0]), actions=actions
    )


def by_hand():
    d = real()
    obs, actions = standardise(d.obs), min_max(d.actions[d.episode_end == 0])
    return d._replace(obs=apply(obs, d.obs), actions=apply(actions, d.actions)), obs, actions


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with shared_loops():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("normalised")
    train(dataclasses.replace(BOTH, updates=6), real(), folder, **OPTIONS)
    shutil.copytree(folder, folder / "half")
    train(BOTH, real(), folder, **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory, loose_promotion):
    """The same training without a normaliser, on data that were normalised before."""
    folder = tmp_path_factory.mktemp("plain")
    train(CONFIG, by_hand()[0], folder, **OPTIONS)
    return folder


def test_the_networks_are_those_trained_on_data_that_were_normalised_before(run, plain):
    pairs = (jax.tree.leaves(arrays_of(folder)) for folder in (run, plain))
    for found, expected in zip(*pairs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_loaded_networks_take_real_observations(run, plain):
    nets, plain = load_run(run), load_run(plain)
    assert nets.config == BOTH and nets.policy.action_shape == (2, 2)
    assert isinstance(nets.critic, Bounded)  # so that `sample` clips
    far = sample(
        nets.policy, nets.critic, jnp.asarray(real().obs[7]), jax.random.key(0), weight=99.0
    )
    np.testing.assert_array_equal(far, nets.critic.to_bounds(far))
    obs, seen = jnp.asarray(real().obs[7]), jnp.asarray(by_hand()[0].obs[7])
    action = jnp.full((2, 2), 0.3)
    for ask in (
        lambda n, o: n.policy(o, action, 0.4),
        lambda n, o: given(n.policy, o)(o, action, 0.4),
        lambda n, o: n.values(o, action),
        lambda n, o: n.critic(o, action),
        lambda n, o: given(n.critic, o)(o, action),
        lambda n, o: n.value(o),
    ):
        np.testing.assert_allclose(ask(nets, obs), ask(plain, seen), rtol=1e-3, atol=1e-4)
        assert not np.allclose(ask(plain, obs), ask(plain, seen), rtol=1e-2)


def test_units_are_of_every_state_and_of_the_actions_that_led_somewhere(run):
    units = load_run(run).units
    for found, expected in zip(units, by_hand()[1:], strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    actions = real().actions[:3]
    np.testing.assert_allclose(units.to_action(units.from_action(actions)), actions, rtol=1e-5)
    assert np.abs(units.from_action(actions)).max() <= 1


def test_a_run_without_normalisers_has_none_in_its_checkpoint(plain):
    held = checkpoint.shapes(plain / "checkpoint.safetensors")
    assert not [name for name in held if "units" in name]
    units, action = load_run(plain).units, object()
    assert units == Units(None, None) and not isinstance(load_run(plain).value, Encoded)
    assert units.to_action(action) is action and units.from_action(action) is action


def test_a_streamed_run_is_that_in_memory_and_a_resumed_one_has_its_bits(run, tmp_path):
    train(BOTH, real(), tmp_path, **OPTIONS, streamed=True)
    assert eqx.tree_equal(arrays_of(tmp_path), arrays_of(run), rtol=1e-5, atol=1e-6)
    # It goes on with the normaliser of the checkpoint, and does not fit another.
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(module, "fit_units", None)
        resumed = train(BOTH, real(), shutil.copytree(run / "half", tmp_path / "half"), **OPTIONS)
    assert resumed.read_bytes() == (run / "checkpoint.safetensors").read_bytes()


@pytest.mark.parametrize("setting", ["normalise_obs", "normalise_actions"])
def test_one_of_the_two_is_enough(setting, tmp_path):
    config = dataclasses.replace(CONFIG, **{setting: "min-max"})
    state = _trained.SavedState(init(config), _units.fit_units(config, data()))
    settings = {"config": config.as_dict(), "spec": SPEC._asdict()}
    checkpoint.save(tmp_path / "checkpoint.safetensors", state, settings)
    units = load_run(tmp_path).units
    assert (units.obs is None) == (setting == "normalise_actions")
    assert (units.actions is None) == (setting == "normalise_obs")
    assert isinstance(load_run(tmp_path).policy, Encoded) == (setting == "normalise_obs")


def test_a_checkpoint_without_the_arrays_that_its_config_names_does_not_load(run, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    found = checkpoint.read_metadata(run / "checkpoint.safetensors")
    state = load_run(run).saved.state
    checkpoint.save(path, _trained.SavedState(state, Units(None, None)), found)
    for load in (load_run, lambda folder: train(BOTH, real(), folder, **OPTIONS)):
        with pytest.raises(CheckpointError, match=r"`\.units\.obs\.shift` is missing in the file"):
            load(tmp_path)
    # and the other way round
    saved = _trained.SavedState(state, load_run(run).units)
    checkpoint.save(path, saved, found | {"config": CONFIG.as_dict()})
    with pytest.raises(CheckpointError, match=r"`\.units\.[\w.]+` .* missing in the model"):
        load_run(tmp_path)


@pytest.mark.parametrize("setting", ["normalise_obs", "normalise_actions"])
def test_a_normaliser_without_a_name_is_refused(setting):
    with pytest.raises(
        RunError, match=f"`{setting}` must be one of none, standardise, min-max, got x"
    ):
        dataclasses.replace(CONFIG, **{setting: "x"})


def test_another_normaliser_is_another_run(run):
    other = dataclasses.replace(BOTH, normalise_actions="standardise")
    with pytest.raises(RunError, match="other settings: `normalise_actions` 'min-max' -> "):
        train(other, real(), run, **OPTIONS)


def test_an_evaluation_acts_in_the_environments_units(run):
    source = Run(str(run), checkpoint_sha256(run)).load()
    nets = load_run(run)
    units = nets.units
    low, high = np.float32([450, -0.005]), np.float32([550, 0.005])
    sampler = Sampler(weight=0.1, steps=2)
    obs, numbers = jnp.asarray(real().obs[:2]), jnp.arange(2, dtype=jnp.uint32)
    found = np.asarray(source.act_of(sampler, 0, low, high)(obs, numbers, 0))
    options = {"low": units.from_action(low), "high": units.from_action(high)}
    inside = make_act(nets.policy, Values(nets.values), sampler, seed=0, **options)(obs, numbers, 0)
    np.testing.assert_allclose(found, units.to_action(inside), rtol=1e-5)
    assert found.shape == (2, 2, 2)
    assert (found >= low - 1e-3).all() and (found <= high + 1e-3).all()
    assert found[..., 0].min() > 400  # and not of size one


def test_the_policy_in_one_line_acts_in_the_environments_units_and_bounds(run):
    space = gymnasium.spaces.Box(np.float32([450, -0.02]), np.float32([560, 0.02]))
    task = Task("line", lambda: SimpleNamespace(action_space=space, close=lambda: None))
    sampler = method("qgf", weight=0.1, steps=3)
    obs, key = real().obs[1], jax.random.key(4)
    chunk = load_policy(run, sampler, task=task)(obs, key)
    one = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 5), 0)
    source = Run(str(run), checkpoint_sha256(run)).load()
    played = source.act_of(sampler, 7, space.low, space.high)
    inside = played(jnp.asarray(obs)[None], jnp.array([5], jnp.uint32), 0)[0]
    found = load_policy(run, sampler, task=task)(obs, one)
    np.testing.assert_allclose(found, inside, rtol=1e-4)
    assert chunk.shape == (2, 2) and space.contains(np.asarray(chunk[0], np.float32))


def test_the_critic_of_the_verbs_without_an_environment_is_bounded_in_the_flows_units(
    run, monkeypatch
):
    space = gymnasium.spaces.Box(-3, 2, (2,))
    task = Task("line", lambda: SimpleNamespace(action_space=space, close=lambda: None))
    monkeypatch.setattr(_offline, "task_of", lambda _: task)
    (_, critic, values, found, _), _ = _offline.open_offline(run, jnp.min)
    obs = _offline.observations(real(), 3)
    from_action = load_run(run).units.from_action
    np.testing.assert_array_equal(critic.high, from_action(2 * np.ones(2, np.float32)))
    np.testing.assert_array_equal(critic.low, from_action(-3 * np.ones(2, np.float32)))
    assert values(obs[0], jnp.zeros((2, 2))).shape == (2,) and found is task
    assert obs.shape == (3, 3) and (obs[-1] == real().obs[-1]).all()


def test_a_source_in_memory_has_the_environments_units():
    source = InMemory(act=lambda *_: 0)
    assert source.bounds(-1, 1) == (-1, 1)
    scaled = dataclasses.replace(
        source, units=Units(None, Normaliser(np.zeros(2), np.full(2, 10.0)))
    )
    np.testing.assert_array_equal(scaled.bounds(np.full(2, -5.0), np.full(2, 5.0))[1], [0.5, 0.5])


def in_parts(d):
    """The same observations as a dict, the last two numbers in a table of their own."""
    return d._replace(obs={"arm": d.obs[:, :1], "cube": {"at": d.obs[:, 1:, None]}})


@pytest.mark.parametrize("config", [CONFIG, BOTH])
def test_observations_that_are_a_dict_are_laid_end_to_end(config, tmp_path):
    train(config, in_parts(real()), tmp_path / "parts", **OPTIONS)
    train(config, real(), tmp_path / "one", **OPTIONS)
    found, expected = load_run(tmp_path / "parts"), load_run(tmp_path / "one")
    obs, noise = real().obs[5], jnp.ones((2, 2))
    parts = {"arm": obs[:1], "cube": {"at": obs[1:, None]}}
    assert found.policy.action_shape == (2, 2)
    for net, other, point in (
        (found.policy, expected.policy, (noise, 0.3)),
        (found.critic, expected.critic, (noise,)),
        (found.value, expected.value, ()),
    ):
        np.testing.assert_array_equal(net(parts, *point), other(obs, *point))
        np.testing.assert_array_equal(given(net, parts)(parts, *point), net(parts, *point))


def test_another_observation_than_that_of_the_data_is_refused(tmp_path):
    train(dataclasses.replace(CONFIG, updates=3), in_parts(data()), tmp_path, **OPTIONS)
    policy, noise = load_run(tmp_path).policy, jnp.ones((2, 2))
    message = r"`obs` has {}, and the networks were trained on `obs\['arm'\]` of shape \(1,\), "
    for obs, said in (
        (jnp.ones(3), r"`obs` of shape \(3,\)"),
        ({"arm": jnp.ones(1)}, r"`obs\['arm'\]` of shape \(1,\)"),
        (
            {"arm": jnp.ones(2), "cube": {"at": jnp.ones((1, 1))}},
            r"`obs\['arm'\]` of shape \(2,\).*",
        ),
    ):
        with pytest.raises(ValueError, match=message.format(said)):
            policy(obs, noise, 0.3)


def test_another_runs_critic_is_asked_in_its_own_units(run, tmp_path):
    """A judge of other units judged other actions than those that were drawn."""
    config = dataclasses.replace(BOTH, normalise_actions="standardise", updates=3)
    train(config, real(), tmp_path, **OPTIONS)
    ours, other = load_run(run), load_run(tmp_path)
    opened = _offline.Offline(ours.policy, ours.critic, ours.values, None, ours)
    judge = _offline.critic_of(tmp_path, opened, jnp.min)
    obs, action = real().obs[3], real().actions[3:5]
    found = judge(obs, ours.units.from_action(action))
    wanted = jnp.min(other.values(obs, other.units.from_action(action)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert abs(found - jnp.min(other.values(obs, ours.units.from_action(action)))) > 1e-3
    longer = dataclasses.replace(config, horizon=3)
    train(longer, real(), tmp_path / "longer", **OPTIONS)
    with pytest.raises(ValueError, match="`critic` takes chunks of shape"):
        _offline.critic_of(tmp_path / "longer", opened, jnp.min)

"""Observations with pictures, from an encoder by hand to a run."""

import dataclasses
import shutil
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import CONFIG, changed, data, shared_loops

from qgf_eqx import sample
from qgf_eqx._fields import given
from qgf_eqx.data import DatasetError, draw_starts, read_rows
from qgf_eqx.data.augment import random_crop
from qgf_eqx.flops import count
from qgf_eqx.learn import _updates, load_run, train
from qgf_eqx.learn._layout import Part, RealObs, join_obs, parts_of, pictures_of
from qgf_eqx.nn import CriticMLP, Encoded, Ensemble, ImpalaEncoder, ObsEncoder, VelocityMLP

pytestmark = pytest.mark.usefixtures("loose_promotion")

KEY = jax.random.key(0)
SEEING = changed(CONFIG, updates=6, critics=1, features=4, normalise_obs="standardise")
OPTIONS = {"updates_per_call": 3, "save_every": 3, "progress": False}


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def convolved(layer, x):
    """A 3 x 3 convolution of (channels, height, width), with zeros around, pixel by pixel."""
    kernel, bias = np.asarray(layer.weight, np.float64), np.asarray(layer.bias, np.float64)
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(kernel), *x.shape[1:]))
    for i, j in np.ndindex(*x.shape[1:]):
        out[:, i, j] = (
            np.sum(kernel * wide[:, i : i + 3, j : j + 3], axis=(1, 2, 3)) + bias[:, 0, 0]
        )
    return out


def halved(x):
    """The maximum of 3 x 3 at every second pixel; TensorFlow's SAME, in which sides that are even
    begin at pixel 0, and odd ones before it."""
    high, wide = (-(-n // 2) for n in x.shape[1:])
    before = [n % 2 for n in x.shape[1:]]
    padded = np.pad(x, ((0, 0), (before[0], 1), (before[1], 1)), constant_values=-np.inf)
    out = np.zeros((len(x), high, wide))
    for i, j in np.ndindex(high, wide):
        out[:, i, j] = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2))
    return out


def test_the_encoder_is_impalas_by_hand():
    encoder = ImpalaEncoder((5, 4, 2), features=3, channels=(3, 2), blocks=2, key=KEY)
    encoder = jax.tree.map(  # biases other than zero
        lambda x: x + 0.1 if eqx.is_array(x) and x.ndim != 4 else x, encoder
    )
    shown = picture((5, 4, 2))
    x = np.moveaxis(shown / 255, -1, 0)
    for stack in encoder.stacks:
        x = halved(convolved(stack.first, x))
        for first, second in stack.blocks:
            x = x + convolved(second, np.maximum(convolved(first, np.maximum(x, 0)), 0))
    dense = np.asarray(encoder.dense.weight) @ np.maximum(x, 0).ravel() + encoder.dense.bias
    expected = jax.nn.gelu(jnp.asarray(dense, jnp.float32))
    np.testing.assert_allclose(encoder(jnp.asarray(shown)), expected, rtol=1e-4, atol=1e-5)
    scaled = jnp.asarray(shown / 255, jnp.float32)
    np.testing.assert_allclose(encoder(scaled), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda e: e(jnp.zeros((4, 4, 3))), ValueError, r"shape \(4, 4, 3\), but .* \(4, 4, 2\)"),
        (lambda e: e(jnp.zeros((4, 4, 2), jnp.int32)), TypeError, r"of int32; .* bytes \(uint8\)"),
        (lambda e: ImpalaEncoder((4, 4, 0), key=KEY), ValueError, "`shape` must be at least 1"),
        (lambda e: ImpalaEncoder((4, 4, 2), blocks=-1, key=KEY), ValueError, "`blocks` must be"),
        (lambda e: ObsEncoder(2, (), key=KEY)(jnp.zeros(3)), ValueError, "0 pictures and 3 other"),
        (lambda e: random_crop(jnp.zeros(2), KEY, pixels=-1), ValueError, "`pixels` must be at"),
    ],
)
def test_what_does_not_fit_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make(ImpalaEncoder((4, 4, 2), features=3, channels=(2,), key=KEY))


def test_a_crop_is_a_shift_and_all_shifts_are_drawn():
    shown = picture((3, 4, 2))
    wide = np.pad(shown, ((1, 1), (1, 1), (0, 0)), mode="edge")
    shifts = {(i, j): wide[i : i + 3, j : j + 4] for i, j in np.ndindex(3, 3)}
    tree = {"now": shown, "next": shown.copy(), "numbers": np.ones(3, np.float32), "grid": shown[0]}
    keys = jax.random.split(KEY, 90)
    found = jax.vmap(lambda k: random_crop(jax.tree.map(jnp.asarray, tree), k, pixels=1))(keys)
    drawn = [
        next(at for at, crop in shifts.items() if np.array_equal(crop, one)) for one in found["now"]
    ]
    counts = [drawn.count(at) for at in shifts]
    assert min(counts) >= 3 and max(counts) <= 20  # of 10 on average
    np.testing.assert_array_equal(found["now"], found["next"])
    for name in ("numbers", "grid"):
        np.testing.assert_array_equal(found[name], np.broadcast_to(tree[name], found[name].shape))
    still = random_crop(jnp.asarray(shown), KEY, pixels=0)
    np.testing.assert_array_equal(still, shown)


def test_a_picture_is_encoded_once_an_action():
    shapes, action = ((16, 16, 3), (8, 8, 1)), (2, 2)
    obs = {
        "camera": jnp.zeros(shapes[0], jnp.uint8),
        "speed": jnp.zeros(3),
        "wrist": jnp.zeros((8, 8, 1)),
    }

    def nets(key):
        encoder = partial(ObsEncoder, 3, shapes, features=5)
        size = encoder(key=key).size
        policy = Encoded(encoder(key=key), VelocityMLP(size, action, width=8, key=key))
        member = lambda k: Encoded(encoder(key=k), CriticMLP(size, action, width=8, key=k))  # noqa: E731
        return policy, Ensemble(member, 2, key=key)

    policy, critic = eqx.filter_eval_shape(nets, KEY)
    bare = policy.net, Ensemble(lambda k: CriticMLP(13, action, width=8, key=k), 2, key=KEY)
    encoding = sum(count(net.encoder, obs) for net in (policy, *critic.members))
    for options in ({}, {"best_of": 4}):
        draw = lambda p, q, o, k, options=options: sample(p, q, o, k, **options)  # noqa: E731
        without = count(draw, *bare, jnp.zeros(13), KEY)
        assert count(draw, policy, critic, obs, KEY) == encoding + without


def seen():
    """The numbers of a dataset beside pictures."""
    d = data()
    return d._replace(obs={"eye": picture((len(d.rewards), 4, 6, 3)), "arm": d.obs})


def joined(d):
    """On the device, as the loop has it."""
    d, layout = join_obs(d)
    return jax.tree.map(jnp.asarray, d), layout


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with shared_loops():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, loose_promotion):
    folder = tmp_path_factory.mktemp("pictures")
    train(dataclasses.replace(SEEING, updates=3), seen(), folder, **OPTIONS)
    shutil.copytree(folder, folder / "half")
    train(SEEING, seen(), folder, **OPTIONS)
    return folder


def test_a_run_with_pictures_is_called_with_what_its_environment_shows(run):
    nets = load_run(run)
    assert nets.config.crop == 3 and nets.policy.action_shape == (2, 2)
    obs = jax.tree.map(lambda leaf: jnp.asarray(leaf[5]), seen().obs)
    noise = jnp.ones((2, 2))
    inside, units = nets.policy.net, nets.units
    row = (obs["arm"] - units.obs.shift[0]) / units.obs.scale[0]
    features = inside.encoder.encoders[0](obs["eye"] / jnp.float32(255))
    expected = inside.net(jnp.concatenate([row, features]), noise, 0.3)
    np.testing.assert_allclose(nets.policy(obs, noise, 0.3), expected, rtol=1e-5)
    for net, point in ((nets.policy, (noise, 0.3)), (nets.critic, (noise,))):
        np.testing.assert_array_equal(given(net, obs)(obs, *point), net(obs, *point))
    dark = {**obs, "eye": jnp.zeros_like(obs["eye"])}
    assert nets.value(obs) != nets.value(dark)
    with pytest.raises(ValueError, match=r"`obs\['eye'\]` of shape \(6, 4, 3\).* were trained on"):
        nets.policy({**obs, "eye": jnp.zeros((6, 4, 3), jnp.uint8)}, noise, 0.3)


def test_resumed_a_run_with_pictures_has_the_same_bits(run, tmp_path):
    whole = (run / "checkpoint.safetensors").read_bytes()
    resumed = train(SEEING, seen(), shutil.copytree(run / "half", tmp_path / "half"), **OPTIONS)
    assert resumed.read_bytes() == whole


def test_streamed_pictures_are_those_on_the_device():
    d, layout = joined(seen())
    assert pictures_of(layout) == ((4, 6, 3),) and d.obs[0].shape[1:] == (3,)
    read = next(_updates.stream(join_obs(seen())[0], SEEING, [(4, 1)]))
    starts = draw_starts(SEEING.seed, jnp.int32(4), batch=SEEING.batch, rows=len(d.rewards))
    expected = read_rows(d, starts, SEEING.horizon)
    assert eqx.tree_equal(jax.tree.map(lambda x: x[0, 0], read), expected) and len(read.obs) == 2


def test_each_chunk_is_cropped_by_a_shift_of_its_own():
    d, _ = joined(seen())
    starts = jnp.arange(SEEING.batch)
    rows = read_rows(d, starts, SEEING.horizon)
    cropped = _updates.cropped(rows, KEY, SEEING)
    keys = jax.random.split(KEY, SEEING.batch)
    for i in range(3):
        for found, whole in ((cropped.obs, rows.obs), (cropped.next_obs, rows.next_obs)):
            expected = random_crop(whole[1][i], keys[i], pixels=3)
            np.testing.assert_array_equal(found[1][i], expected)
            np.testing.assert_array_equal(found[0][i], whole[0][i])
    still = dataclasses.replace(SEEING, crop=0)
    assert _updates.cropped(rows, KEY, still) is rows
    assert not np.array_equal(cropped.obs[1], rows.obs[1])


def test_pictures_with_their_channels_first_are_refused(tmp_path):
    d = seen()
    d.obs["eye"] = np.moveaxis(d.obs["eye"], -1, 1)
    with pytest.raises(DatasetError, match=r"field `obs\['eye'\]` holds pictures .* come last"):
        train(SEEING, d, tmp_path, **OPTIONS)


def test_a_picture_alone_is_an_observation():
    d, layout = joined(data()._replace(obs=picture((len(data().rewards), 4, 4, 3))))
    assert pictures_of(layout) == ((4, 4, 3),) and d.obs[0].shape == (len(d.rewards), 0)
    encoder = ObsEncoder(0, pictures_of(layout), features=4, key=KEY)
    value = Encoded(RealObs(None, layout), encoder)
    shown = d.obs[1][0]
    np.testing.assert_array_equal(value(shown), value.net.encoders[0](shown))


def test_of_a_run_that_was_laid_out_by_an_older_version_nothing_is_a_picture():
    found = parts_of([["['arm']", [3]], ["['eye']", [4, 6, 3], True]])
    assert found == (Part("['arm']", (3,)), Part("['eye']", (4, 6, 3), True))

"""Each actor's losses against what they must come to, without training where a formula will do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import bounded, guidance, objectives, sample
from qgf_eqx.analytic import GaussianFlow
from qgf_eqx.data import Chunk
from qgf_eqx.learn import Judges, Networks, Spec, _ddpm
from qgf_eqx.learn.actors import (
    BC,
    CFGRL,
    DAC,
    EDP,
    FQL,
    IFQL,
    QAM,
    QSM,
    Distill,
    QAMEdit,
    RobustQ,
)
from qgf_eqx.learn.actors.qam import adjoint_matching, lean_adjoint, memoryless_path

Q = np.array([0.3, -0.2])
ACTION = np.array([0.4, -0.6])
KEY = jax.random.key(3)
SPEC = Spec(3, (2, 2))
SMALL = {"width": 8, "depth": 2}


def linear(slope=Q, bound=1.0, value=None):
    """Two members of different slopes, whose mean has this one; as the critic that guides has."""
    mean = lambda obs, a: jnp.sum(slope * a)  # noqa: E731
    of = lambda obs, a: jnp.stack([1.5 * mean(obs, a) + 1, 0.5 * mean(obs, a) - 1])  # noqa: E731
    return Judges(bounded(lambda obs, a: mean(obs, a) - 1, -bound, bound), of, value)


def chunk(action=ACTION, obs=None):
    return Chunk(obs, jnp.asarray(action), jnp.zeros(()), jnp.ones(()), obs, jnp.ones(()))


class Constant(eqx.Module):
    """A field that is the same everywhere: its derivative is that of a loss in its answer."""

    at: jax.Array

    @property
    def action_shape(self):
        return self.at.shape

    def __call__(self, obs, a_t, t):
        return self.at


def slope(learner, at, judges, action=ACTION, key=KEY):
    """The derivative of the sum of a learner's losses in the answer of its network."""

    def total(at):
        return sum(learner.losses(Networks(Constant(at)), chunk(action), key, judges).values())

    return jax.grad(total)(at)


def test_the_flows_loss_is_flow_matching_and_it_acts_as_the_plain_flow(x64):
    learner, net = BC(), GaussianFlow(jnp.array([0.3, 0.1]), 0.5)
    found = learner.losses(Networks(net), chunk(), KEY, linear())
    assert found == {"flow_loss": objectives.flow_matching(net, None, jnp.asarray(ACTION), KEY)}
    acted = learner.act(Networks(net), linear(), None, KEY)
    np.testing.assert_array_equal(acted, sample(net, linear().critic, None, KEY, weight=0))
    grid = BC(paper_time=True).losses(Networks(net), chunk(), KEY, linear())
    on = objectives.flow_matching(net, None, jnp.asarray(ACTION), KEY, time=objectives.grid_time)
    assert grid == {"flow_loss": on}


@pytest.mark.parametrize("clipped", [False, True])
def test_edps_gradient_is_the_critics_at_the_leap_and_zero_where_it_is_clipped(x64, clipped):
    v, c = jnp.array([0.1, 50.0 if clipped else 0.2]), 7.0
    a_t, t, target = objectives.noisy_point(jnp.asarray(ACTION), KEY)
    leap = a_t + (1 - t) * v
    assert (np.abs(leap) < 3).tolist() == [True, not clipped] and 0.05 < t < 0.95
    inside = (np.abs(leap) < 3).astype(float)
    expected = -(1 - t) * Q * inside + c * 2 / 2 * (v - target)
    found = slope(EDP(c=c), v, linear(bound=3.0))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def distilled(alpha, bound=9.0, shift=0.0, judges=None):
    """The derivative of FQL's losses in a shift of the one-step policy from the flow's map."""
    learner, flow = FQL(alpha=alpha), GaussianFlow(jnp.array([0.3, 0.1]), 0.5)

    class Shifted(eqx.Module):
        by: jax.Array

        def __call__(self, obs, z, t):
            return sample_from(flow, z) + self.by

    def total(by):
        asked = linear(bound=bound) if judges is None else judges
        found = learner.losses(Networks((flow, Shifted(by))), chunk(), KEY, asked)
        return found["distill_loss"] + found["q_loss"]

    return jax.grad(total)(jnp.zeros(2) + shift)


def sample_from(flow, z, steps=10):
    for k in range(steps):
        z = z + flow(None, z, k / steps) / steps
    return z


def test_fqls_one_step_policy_is_the_flow_and_a_step_up_the_mean_of_the_critics(x64):
    """With a linear critic: `flow + grad Q d / (2 alpha)`, d the action's dimensions."""
    best = Q * 2 / (2 * 5.0)
    np.testing.assert_allclose(distilled(5.0, shift=best), 0, atol=1e-12)
    np.testing.assert_allclose(distilled(5.0), -Q, rtol=1e-9)
    np.testing.assert_allclose(distilled(1e9, shift=1e-3) / 1e9, 2 / 2 * 1e-3, rtol=1e-6)
    np.testing.assert_allclose(distilled(5.0, bound=1e-3), 0, atol=1e-12)  # all clipped


def test_fqls_flow_is_cloned_and_only_cloned():
    learner = FQL(**SMALL)
    nets = learner.init(SPEC, KEY)
    judges, one = linear(jnp.ones((2, 2))), chunk(jnp.zeros((2, 2)), jnp.ones(3))

    def total(flow, names):
        found = learner.losses(Networks((flow, nets.trained[1])), one, KEY, judges)
        return sum(found[name] for name in names)

    cloned = eqx.filter_grad(total)(nets.trained[0], ("flow_loss",))
    whole = eqx.filter_grad(total)(nets.trained[0], ("flow_loss", "distill_loss", "q_loss"))
    assert eqx.tree_equal(cloned, whole)
    acted = learner.act(nets, judges, jnp.ones(3), KEY)
    assert acted.shape == (2, 2) and np.abs(acted).max() <= 1


@pytest.mark.parametrize("kind", [DAC, QSM])
def test_the_pointwise_minimisers_of_the_diffusion_actors(x64, kind):
    learner, judges = kind(alpha=3.0), linear(bound=0.5)
    a_k, k, eps = _ddpm.diffused(jnp.asarray(ACTION), KEY)
    spread = _ddpm.signal_and_noise(k)[1]
    best = {
        DAC: eps - spread * Q / (2 * 3.0),
        QSM: (3.0 * eps - 0.1 * Q) / (1 + 3.0),
    }[kind]
    assert np.abs(a_k).max() > 0.5  # the critic is asked at the clipped point: its gradient stays
    np.testing.assert_allclose(slope(learner, best, judges), 0, atol=1e-12)
    assert np.abs(slope(learner, best + 0.1, judges)).min() > 0.1
    assert np.abs(slope(learner, best, linear(2 * Q, bound=0.5))).min() > 1e-3


def test_the_schedule_keeps_the_variance_and_ends_in_noise(x64):
    betas = 1 - np.exp(-0.1 / 10 - 9.9 * (2 * np.arange(1, 11) - 1) / 200)
    for k in range(1, 11):
        signal, noise = _ddpm.signal_and_noise(k)
        np.testing.assert_allclose(signal**2, np.prod(1 - betas[:k]))
        np.testing.assert_allclose(signal**2 + noise**2, 1)
    assert signal < 0.1
    each = jax.vmap(lambda key: _ddpm.diffused(jnp.asarray(ACTION), key)[1])(
        jax.random.split(KEY, 2000)
    )
    assert sorted(set(each.tolist())) == list(range(1, 11))


def test_ancestral_sampling_is_its_recursion_and_reaches_the_data(x64):
    """For Gaussian data the noise's mean is known, and each step is affine."""
    mean, std = 0.3, 0.2
    gain = lambda k: _ddpm.signal_and_noise(k)  # noqa: E731

    def net(obs, a_k, time):
        signal, noise = gain(jnp.round(time * 10).astype(int))
        return noise * (a_k - signal * mean) / (signal**2 * std**2 + noise**2)

    betas = 1 - np.exp(-0.1 / 10 - 9.9 * (2 * np.arange(1, 11) - 1) / 200)
    m, var = 0.0, 1.0
    for k in range(10, 0, -1):
        signal, noise = (float(x) for x in gain(k))
        slope = betas[k - 1] / (signal**2 * std**2 + noise**2)
        scale = (1 - slope) / np.sqrt(1 - betas[k - 1])
        m = scale * m + slope * signal * mean / np.sqrt(1 - betas[k - 1])
        var = scale**2 * var + (betas[k - 1] if k > 1 else 0)
    keys = jax.random.split(KEY, 40_000)
    noises = jax.random.normal(jax.random.key(9), (40_000,))
    drawn = jax.vmap(lambda n, key: _ddpm.draw(net, None, n, key))(noises, keys)
    np.testing.assert_allclose(drawn.mean(), m, atol=4 * np.sqrt(var / 40_000))
    np.testing.assert_allclose(drawn.std(), np.sqrt(var), rtol=0.02)
    assert abs(m - mean) < 0.03 and abs(np.sqrt(var) - std) < 0.1


MEAN, STD, STEPS = 0.4, 0.5, 400


def gaussian_path(fine=None, steps=STEPS, key=KEY, noise=0.7):
    base = GaussianFlow(jnp.array(MEAN), STD)
    return base, memoryless_path(base, fine or base, None, jnp.array(noise), key, steps)


def test_the_paths_end_has_the_flows_law_and_forgets_its_noise(x64):
    keys = jax.random.split(KEY, 4000)
    for noise in (-2.0, 2.0):
        ends = jax.vmap(lambda key: gaussian_path(key=key, noise=noise)[1][-1])(keys)
        np.testing.assert_allclose(ends.mean(), MEAN, atol=0.05)
        np.testing.assert_allclose(ends.std(), STD, rtol=0.05)
    _, path = gaussian_path(steps=4)
    assert path.shape == (5,) and path[0] == 0.7
    base = GaussianFlow(jnp.array(MEAN), STD)
    np.testing.assert_allclose(path[4], path[3] + base(None, path[3], 0.75) / 4)
    eps = jax.random.normal(jax.random.fold_in(KEY, 1), ())
    drift = 2 * base(None, path[1], 0.25) - path[1] / 0.5
    walked = path[1] + drift / 4 + np.sqrt(2 * (1 - 0.25 + 0.25) / 0.5) * eps / 2
    np.testing.assert_allclose(path[2], walked)


def test_the_lean_adjoint_is_the_gradient_through_the_chain_of_the_base_flow(x64):
    base, path = gaussian_path(steps=6)
    found = lean_adjoint(base, None, path, jnp.array(2.0))

    def end(x, start):
        for k in range(start, 6):
            t = (k + 1) / 6
            x = x + (2 * base(None, x, t) - x / t) / 6  # its slope is that of the state's own
        return x

    expected = [2.0 * jax.grad(end)(path[k], k) for k in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_fixed_point_of_adjoint_matching_is_the_tilted_flow(x64):
    """A Gaussian and a linear critic: the tilted law is the Gaussian, moved by `std^2 slope`."""
    base, path = gaussian_path()
    slope, c = 0.6, 0.8
    adjoints = lean_adjoint(base, None, path, jnp.array(-c * slope))
    t = np.arange(STEPS) / STEPS
    spread = np.sqrt(2 * (1 - t + 1 / STEPS) / (t + 1 / STEPS))
    change = -(spread**2) * adjoints / 2
    tilted = base.tilted(jnp.array(c * slope))
    wanted = jax.vmap(lambda x, t: tilted(None, x, t) - base(None, x, t))(path[:-1], t)
    later = t >= 0.1  # before, the SDE's `h` that keeps its noise finite is felt
    np.testing.assert_allclose(change[later], wanted[later], atol=0.005)

    class Moved(eqx.Module):
        """The base field and the change at the nearest time."""

        by: jax.Array

        def __call__(self, obs, a_t, t):
            return base(obs, a_t, t) + self.by[jnp.round(t * STEPS).astype(int)]

    loss = lambda by: adjoint_matching(base, Moved(by), None, path[:-1], adjoints)  # noqa: E731
    np.testing.assert_allclose(loss(change), 0, atol=1e-12)
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(change)), 0, atol=1e-9)


def test_qams_losses_train_the_base_by_cloning_and_the_fine_flow_by_the_mean_critic(x64):
    learner = QAM(inverse_temperature=0.5, steps=5, **SMALL)
    nets = learner.init(SPEC, KEY)
    base, fine = nets.trained
    assert eqx.tree_equal(base, fine)
    judges, one = linear(jnp.ones((2, 2)), bound=9.0), chunk(jnp.zeros((2, 2)), jnp.ones(3))

    def total(trained, judges=judges, names=("flow_loss", "adjoint_loss")):
        found = learner.losses(Networks(trained), one, KEY, judges)
        return sum(found[name] for name in names)

    both = eqx.filter_grad(total)(nets.trained)
    cloned = eqx.filter_grad(total)(nets.trained, judges, ("flow_loss",))
    adjoint = eqx.filter_grad(total)(nets.trained, judges, ("adjoint_loss",))
    assert eqx.tree_equal(both[0], cloned[0], rtol=1e-9)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(adjoint[0]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(cloned[1]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(adjoint[1]))
    # Where both flows are equal the loss is that of the adjoints alone: by hand, from the path.
    noise = jax.random.normal(jax.random.split(KEY, 3)[1], (2, 2))
    path = memoryless_path(base, fine, jnp.ones(3), noise, jax.random.split(KEY, 3)[2], 5)
    g = lean_adjoint(base, jnp.ones(3), path, -0.5 * jnp.ones((2, 2)))
    t = np.arange(5) / 5
    expected = np.sum(2 * (1.2 - t) / (t + 0.2) * np.sum(np.square(g), (1, 2)))
    found = total(nets.trained, names=("adjoint_loss",))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # And where they differ, the path is the fine flow's and the adjoint pushes up the critic.
    moved = learner.init(SPEC, jax.random.key(8)).trained[1]
    path = memoryless_path(base, moved, jnp.ones(3), noise, jax.random.split(KEY, 3)[2], 5)
    g = lean_adjoint(base, jnp.ones(3), path, -0.5 * jnp.ones((2, 2)))
    wanted = adjoint_matching(base, moved, jnp.ones(3), path[:-1], g)
    found = total((base, moved), names=("adjoint_loss",))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    acted = learner.act(nets, judges, jnp.ones(3), KEY)
    wanted = sample(fine, judges.critic, jnp.ones(3), KEY, weight=0, steps=5)
    np.testing.assert_array_equal(acted, wanted)


def test_cfgrls_condition_is_whether_q_is_above_v(x64):
    learner = CFGRL(share=0.2, **SMALL)
    nets, obs = learner.init(SPEC, KEY), jnp.ones(3)
    one = chunk(jnp.full((2, 2), 0.5), obs)
    for value, better in ((0.5, 1.0), (1.5, -1.0)):  # the least member is at 1
        judges = linear(jnp.ones((2, 2)), value=lambda obs, at=value: jnp.array(at))
        found = learner.losses(nets, one, KEY, judges)["cfgrl_loss"]
        arguments = nets.trained, jnp.array(better), obs, one.action, KEY
        np.testing.assert_allclose(found, objectives.cfgrl(*arguments, share=0.2))
    with pytest.raises(ValueError, match="`cfgrl` needs a critic with a state value"):
        learner.losses(nets, one, KEY, linear(jnp.ones((2, 2))))
    net, a, t = nets.trained, jnp.full((2, 2), 0.1), 0.3
    plain, cond = (net((obs, jnp.array(o)), a, t) for o in (0.0, 1.0))
    for weight, expected in ((0.0, plain), (1.0, cond), (3.0, plain + 3 * (cond - plain))):
        policy = CFGRL(weight=weight).policy(nets)
        np.testing.assert_allclose(policy(obs, a, t), expected, rtol=1e-9, atol=1e-12)


def test_robust_q_learns_the_mean_or_the_soft_value_and_gives_an_estimator(x64):
    """Gaussian data, a linear critic, the critic of noisy actions a number at t = 0: the mean of
    Q, or with LinEx the mean and half the variance over the temperature."""
    data = 0.2 + 0.5 * jax.random.normal(KEY, (20_000, 1))
    judges = linear(jnp.array([0.6]), bound=99.0)
    keys = jax.random.split(KEY, 20_000)

    class Number(eqx.Module):
        at: jax.Array

        def __call__(self, obs, a_t, t):
            return self.at

    mean, var = 0.6 * 0.2 - 1, (0.6 * 0.5) ** 2  # of the least member
    for learner, best in ((RobustQ(), mean), (RobustQ(linex=True, temperature=0.5), mean + var)):

        def loss(at, learner=learner):
            one = lambda a, key: learner.losses(Networks(Number(at)), chunk(a), key, judges)  # noqa: E731
            return jnp.mean(jax.vmap(one)(data, keys)["robust_loss"])

        at = jnp.array(best)
        step = jax.grad(loss)(at) / jax.hessian(loss)(at)
        np.testing.assert_allclose(step, 0, atol=0.01)
    net = RobustQ(**SMALL).init(SPEC, KEY)
    a_t = jnp.full((2, 2), 0.1)
    found = RobustQ().estimator(net)(lambda *_: a_t, judges.critic, jnp.ones(3), a_t, 0.5)
    options = {"robust_critic": net.trained}
    wanted = guidance.robust(lambda *_: a_t, judges.critic, jnp.ones(3), a_t, 0.5, **options)
    np.testing.assert_array_equal(found, wanted)


def test_ifql_is_the_flow_whose_best_of_n_is_taken(x64):
    net = Networks(GaussianFlow(jnp.array([0.3, 0.1]), 0.5))
    judges = linear()
    plain = BC().act(net, judges, None, KEY)
    np.testing.assert_array_equal(IFQL(best_of=1).act(net, judges, None, KEY), plain)
    values = [
        float(judges.critic(None, IFQL(best_of=n).act(net, judges, None, KEY)))
        for n in (1, 4, 32, 128)
    ]
    assert values == sorted(values) and values[-1] > values[0]
    assert IFQL().best_of == 32
    assert IFQL().losses(net, chunk(), KEY, judges) == BC().losses(net, chunk(), KEY, judges)


@pytest.mark.parametrize("kind", [BC, IFQL, EDP, FQL, CFGRL, DAC, QSM, QAM])
def test_every_actor_acts_within_the_bounds(kind):
    spec = SPEC._replace(low=-0.1, high=0.2)
    learner = kind(**SMALL)
    judges = linear(jnp.ones((2, 2)), value=lambda obs: jnp.zeros(()))
    judges = judges._replace(critic=bounded(judges.critic.critic, spec.low, spec.high))
    nets = learner.init(spec, KEY)
    act = jax.jit(jax.vmap(lambda obs, key: learner.act(nets, judges, obs, key)))
    actions = act(jnp.ones((20, 3)), jax.random.split(KEY, 20))
    assert actions.shape == (20, 2, 2) and np.isfinite(actions).all()
    assert actions.min() >= np.float32(-0.1) and actions.max() == np.float32(0.2)


def test_fql_qam_and_ifql_ask_the_critics_that_are_trained_and_not_their_average(x64):
    """The average says the opposite."""
    online = lambda obs, a: jnp.stack([jnp.sum(Q * a), 3 * jnp.sum(Q * a)])  # noqa: E731
    judges = linear(-Q)._replace(online=online)
    np.testing.assert_allclose(distilled(5.0, judges=judges), -2 * Q, rtol=1e-9)
    found = linear(-Q)
    assert found.newest is found.values and judges.newest is online
    flow = GaussianFlow(jnp.zeros(2), 0.5)
    drawn = IFQL(best_of=64).act(Networks(flow), judges, None, KEY)
    assert jnp.sum(Q * drawn) > 0.2
    learner = QAM(steps=4, inverse_temperature=1.0)
    nets = Networks((flow, flow))
    up = learner.losses(nets, chunk(), KEY, linear(2 * Q, bound=9.0))["adjoint_loss"]
    found = learner.losses(nets, chunk(), KEY, linear(-Q, bound=9.0)._replace(online=online))
    np.testing.assert_allclose(found["adjoint_loss"], up, rtol=1e-9)


def test_the_edit_climbs_the_mean_critic_within_its_size_and_the_bounds(x64):
    """A linear critic: the derivative of the change is `-grad Q most (1 - tanh^2)`, and zero where
    the edited action is clipped."""
    learner, flow = QAMEdit(most=0.2, steps=3), GaussianFlow(jnp.array([0.3, 0.1]), 0.05)
    at = jnp.array([0.4, -0.3])

    def total(at, bound):
        nets = Networks((flow, flow, Constant(at)))
        return learner.losses(nets, chunk(), KEY, linear(bound=bound))["edit_loss"]

    expected = -Q * 0.2 * (1 - np.tanh(at) ** 2)
    np.testing.assert_allclose(jax.grad(total)(at, 9.0), expected, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(total)(at, 1e-3), 0, atol=1e-12)
    nets = Networks((flow, flow, Constant(jnp.array([99.0, -99.0]))))
    judges = linear(bound=0.35)
    plain = QAM(steps=3).act(nets._replace(trained=nets.trained[:2]), judges, None, KEY)
    edited = learner.act(nets, judges, None, KEY)
    np.testing.assert_allclose(edited, np.clip(plain + np.array([0.2, -0.2]), -0.35, 0.35))
    both = learner.losses(nets, chunk(), KEY, judges)
    assert set(both) == {"flow_loss", "adjoint_loss", "edit_loss"}


def test_the_edit_does_not_train_the_flows():
    learner = QAMEdit(steps=2, **SMALL)
    nets, one = learner.init(SPEC, KEY), chunk(jnp.zeros((2, 2)), jnp.ones(3))

    def total(trained):
        return learner.losses(Networks(trained), one, KEY, linear(jnp.ones((2, 2))))["edit_loss"]

    base, fine, edit = eqx.filter_grad(total)(nets.trained)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((base, fine)))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(edit))


@pytest.mark.parametrize("one_step", [True, False])
def test_the_students_law_is_the_teachers(x64, one_step):
    """A Gaussian flow and a linear critic make the teacher an affine map of its noise. The student
    of the least loss is that map, or the flow of its law."""
    learner = Distill(weight=2.0, steps=6, one_step=one_step)
    flow, judges = GaussianFlow(jnp.array([0.3, 0.1]), 0.5), linear(bound=99.0)
    teach = jax.vmap(lambda z: learner.teacher(Networks((flow, None)), judges, None, z))
    zero, eye = teach(jnp.zeros((1, 2)))[0], teach(jnp.eye(2))
    gain = jnp.mean(jnp.diag(eye - zero[None]))
    np.testing.assert_allclose(eye - zero[None], gain * np.eye(2), atol=1e-12)
    plain = jax.vmap(lambda z: sample_from(flow, z, 6))(jnp.zeros((1, 2)))[0]
    assert np.all((zero - plain) * Q > 0.05)  # it is guided

    class Affine(eqx.Module):
        shift: jax.Array
        gain: jax.Array

        def __call__(self, obs, z, t):
            return self.shift + self.gain * z

    student = Affine(zero, gain) if one_step else GaussianFlow(zero, gain)
    keys = jax.random.split(KEY, 20_000)

    def total(student):
        one = lambda key: learner.losses(Networks((flow, student)), chunk(), key, judges)  # noqa: E731
        return jnp.mean(jax.vmap(lambda key: one(key)["distill_loss"])(keys))

    found, slopes = eqx.filter_value_and_grad(total)(student)
    if one_step:
        np.testing.assert_allclose(found, 0, atol=1e-12)
    for name, leaf in zip(("mean", "spread"), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(leaf, 0, atol=1e-12 if one_step else 0.03, err_msg=name)
    moved = eqx.tree_at(lambda s: jax.tree.leaves(s)[0], student, zero + 0.3)
    assert total(moved) > found + 0.01
    if one_step:  # what it draws has the teacher's mean and covariance
        acted = jax.vmap(lambda key: student(None, jax.random.normal(key, (2,)), 0))(keys)
        taught = teach(jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys))
        np.testing.assert_allclose(acted, taught, atol=1e-9)


def test_distilling_trains_the_flow_by_cloning_alone_and_the_student_acts_within_the_bounds():
    learner = Distill(steps=2, **SMALL)
    nets, one = learner.init(SPEC, KEY), chunk(jnp.zeros((2, 2)), jnp.ones(3))
    judges = linear(jnp.ones((2, 2)), bound=0.01)

    def total(trained):
        far = linear(jnp.ones((2, 2)), bound=99.0)  # nothing is clipped, which has no derivative
        return learner.losses(Networks(trained), one, KEY, far)["distill_loss"]

    flow, student = eqx.filter_grad(total)(nets.trained)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(flow))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(student))
    for kind in (learner, Distill(steps=2, one_step=False, **SMALL)):
        acted = kind.act(kind.init(SPEC, KEY), judges, jnp.ones(3), KEY)
        assert acted.shape == (2, 2) and np.abs(acted).max() <= 0.01

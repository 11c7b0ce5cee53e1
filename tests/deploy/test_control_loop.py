"""The control loop: which row is executed when, and what happens when a draw is late or NaN."""

import gc
import threading
import warnings
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import Flow, bounded, sample
from qgf_eqx.deploy import ControlLoop
from qgf_eqx.deploy._draws import Drawn
from qgf_eqx.steering import Inpainted, prefix_mask
from qgf_eqx.weights import Mask

OBS = np.zeros(2, np.float32)
KEY = jax.random.key(0)
HORIZON = 8


def field(obs, a_t, t):
    return jnp.mean(obs) + 0.1 - a_t


def value(obs, action):
    return jnp.sum(action) * jnp.where(obs[1] > 5, jnp.nan, 1.0)


POLICY = Flow(field, (HORIZON, 2))
CRITIC = bounded(value)
loop_of = partial(ControlLoop, POLICY, CRITIC, OBS, KEY, weight=0.1, steps=2)


def drawn(count, obs=OBS, **options):
    key = jax.random.fold_in(KEY, count)
    return np.asarray(sample(POLICY, CRITIC, obs, key, **{"weight": 0.1, "steps": 2} | options))


def stepped(loop):
    """The loop, whose draws end when they are told to, and are numbered: `row + 100 draw`."""
    count, gates = [0], [threading.Event(), threading.Event()]

    def scripted(gate, base):
        def draw(number, obs, key, old=None, mask=None):
            seen[number] = old, mask
            assert gate.wait(20)
            rows = np.repeat(
                base + 100 * number + np.arange(HORIZON, dtype=np.float32)[:, None], 2, axis=1
            )
            return Drawn(rows, rows, True, True, 0.0, 0.001)

        return draw

    def run(thread, draw, inputs, run=loop._run):  # numbered in the order in which they are begun
        count[0] += 1
        return run(thread, partial(draw, count[0]), inputs)

    seen, loop._run = {}, run
    guided, plain = (scripted(gate, base) for gate, base in zip(gates, (0, 10_000), strict=True))
    loop._draws = loop._draws._replace(guided=guided, following=guided, plain=plain)
    loop._reserve = 0.2  # of the 0.4 seconds of the deadlines here: enough on a loaded machine
    for gate in gates:
        gate.set()
    return loop, gates, seen


def ended(loop, thread=0):
    """Waits until the thread, 0 for guided draws, is free."""
    loop._running[thread].result()
    return loop


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_the_rows_of_a_chunk_are_sampled_and_executed_in_order(rows):
    with loop_of(execution_horizon=rows) as loop:
        for count in range(1, 4):
            for row in range(rows):
                np.testing.assert_allclose(loop(OBS), drawn(count)[row], rtol=1e-6)
        found = loop.statistics
    assert (found.ticks, found.chunks, found.missed, found.held) == (3 * rows, 3, 0, 0)
    assert found.tick_p99 >= found.tick_p50 > 0 and "deadlines missed" in str(found)


def test_drawn_ahead_the_next_chunk_is_taken_up_at_the_row_that_is_due():
    loop, gates, seen = stepped(loop_of(execution_horizon=3, ahead=True))
    act = lambda: loop(OBS)[0]  # noqa: E731
    assert [act() for _ in range(3)] == [100, 101, 102]
    gates[0].clear()
    assert act() == 103  # the fourth tick: the next chunk is begun, and its row 0 is this row
    assert act() == 104
    gates[0].set()
    ended(loop)
    assert act() == 202  # two ticks after it was begun
    assert loop.statistics.inference_delay == 2
    old, mask = seen[2]
    np.testing.assert_array_equal(old[:, 0], [103, 104, 105, 106, 107, 0, 0, 0])
    np.testing.assert_array_equal(mask, prefix_mask(HORIZON, 1, 3).astype(np.float32))
    assert act() == 203  # three rows are over: the third chunk is begun
    ended(loop)
    np.testing.assert_array_equal(seen[3][1], prefix_mask(HORIZON, 2, 3).astype(np.float32))


def test_the_following_chunk_is_the_inpainted_flows():
    loop = loop_of(ahead=True)
    old = np.linspace(-1, 1, 16, dtype=np.float32).reshape(8, 2)
    mask = np.asarray(prefix_mask(8, 2, 4), np.float32)
    key = jax.random.key(5)
    found = loop._draws.following(OBS, key, old, mask)
    old, mask = jnp.asarray(old), jnp.asarray(mask)
    held, weight = Inpainted(POLICY, old, mask), Mask(0.1, 1 - mask)
    wanted = sample(held, CRITIC, OBS, key, weight=weight, steps=2)
    np.testing.assert_allclose(found.chunk, wanted, rtol=1e-5, atol=1e-6)
    assert found.guided and found.finite


def test_late_it_takes_a_chunk_of_the_plain_flow_and_then_holds():
    loop, gates, _ = stepped(loop_of(execution_horizon=8, ahead=True, deadline=0.4))
    act = lambda: loop(OBS)[0]  # noqa: E731
    rows = [act() for _ in range(8)]
    gates[0].clear()  # a stall, with a new chunk to be drawn
    assert rows == [100 + i for i in range(8)]
    assert act() == 10_300  # number 2 is the late one
    assert [act() for _ in range(6)] == [10_300 + i for i in range(1, 7)]
    gates[1].clear()  # now the plain flow stalls too: number 4, begun with the last row
    assert [act() for _ in range(3)] == [10_307, 10_307, 10_307]
    found = loop.statistics
    assert (found.missed, found.late, found.held) == (3, 1, 2)
    for gate in gates:
        gate.set()
    ended(ended(loop), 1)
    assert act() == 10_403  # three ticks late, it is better than nothing
    ended(loop)
    assert act() == 501  # guided again, and begun at once
    found = loop.statistics
    assert (found.missed, found.late, found.held) == (3, 2, 2)


def test_a_plain_chunk_is_ready_when_the_last_row_is_over():
    loop, gates, _ = stepped(loop_of(execution_horizon=5, ahead=True, deadline=0.4))
    for _ in range(5):
        loop(OBS)
    gates[0].clear()
    assert [loop(OBS)[0] for _ in range(3)] == [105, 106, 107]  # 2 is begun, and then 3
    loop._running[1].result()
    assert loop(OBS)[0] == 10_301  # its row 0 was due with the last row
    assert (loop.statistics.late, loop.statistics.held) == (1, 0)
    gates[0].set()


def test_a_plain_chunk_that_is_too_old_is_neither_taken_nor_counted():
    loop, gates, _ = stepped(loop_of(execution_horizon=8, ahead=True, deadline=0.4))
    for _ in range(8):
        loop(OBS)
    for gate in gates:
        gate.clear()
    for _ in range(9):
        loop(OBS)
    gates[1].set()
    loop._running[1].result()
    assert loop(OBS)[0] == 10_400  # 3 is nine ticks old: another one is drawn
    assert loop.statistics.late == 1
    gates[0].set()


def test_a_plain_chunk_that_was_not_needed_is_not_executed():
    loop, gates, _ = stepped(loop_of(execution_horizon=5, ahead=True, deadline=0.4))
    for _ in range(5):
        loop(OBS)
    gates[0].clear()
    for _ in range(3):
        loop(OBS)
    gates[0].set()
    ended(ended(loop), 1)
    assert [loop(OBS)[0] for _ in range(2)] == [203, 204]
    assert loop.statistics.late == 0
    gates[0].clear()
    assert [loop(OBS)[0] for _ in range(3)] == [205, 206, 207]  # 4 is begun, and then 5
    loop._running[1].result()
    assert loop(OBS)[0] == 10_501  # and not 3, which is old
    gates[0].set()


def test_a_chunk_that_was_given_up_does_not_displace_the_plain_one():
    loop, gates, _ = stepped(loop_of(execution_horizon=8, ahead=True, deadline=0.4))
    for _ in range(8):
        loop(OBS)
    gates[0].clear()
    assert loop(OBS)[0] == 10_300
    gates[0].set()
    ended(loop)
    assert loop(OBS)[0] == 10_301
    ended(loop)
    assert loop(OBS)[0] == 401  # drawn along the plain one


def test_a_late_chunk_is_taken_up_where_it_is_due_or_not_at_all():
    loop, gates, _ = stepped(loop_of(execution_horizon=8, ahead=True, deadline=0.4))
    for _ in range(8):
        loop(OBS)
    for gate in gates:
        gate.clear()
    held = [loop(OBS)[0] for _ in range(3)]
    assert held == [107] * 3
    gates[0].set()
    ended(loop)
    assert loop(OBS)[0] == 203  # begun three ticks ago
    for _ in range(4):
        loop(OBS)
    gates[0].clear()
    for _ in range(9):
        loop(OBS)
    gates[0].set()
    ended(loop)
    assert loop(OBS)[0] % 100 == 0  # nine ticks old: of no use, a new one is drawn


@pytest.fixture(scope="module")
def compilations():
    """The names of what was compiled, in a list that may be cleared."""
    seen = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seen


@pytest.mark.parametrize("ahead", [False, True])
def test_no_tick_compiles_anything(compilations, ahead):
    """The program of the keys took 70 ms of the first one."""
    jax.clear_caches()
    with loop_of(ahead=ahead, deadline=5.0, execution_horizon=2) as loop:
        assert compilations
        compilations.clear()
        for _ in range(8):
            loop(OBS)
            loop._running[0].result()
    assert compilations == []


def test_the_garbage_collector_does_not_walk_through_what_was_compiled():
    gc.unfreeze()
    with loop_of():
        assert gc.get_freeze_count() > 100_000 and len(gc.get_objects()) < 10_000
    gc.unfreeze()


def test_what_is_held_is_yours_to_say():
    loop, gates, _ = stepped(loop_of(execution_horizon=8, deadline=0.4, hold=np.zeros_like))
    for _ in range(8):
        loop(OBS)
    for gate in gates:
        gate.clear()
    np.testing.assert_array_equal(loop(OBS), [0, 0])
    loop.hold = lambda last: np.full_like(last, np.nan)
    with pytest.raises(ValueError, match="`hold` gave an action that is not finite"):
        loop(OBS)
    for gate in gates:
        gate.set()


@pytest.mark.parametrize("ahead", [False, True])
def test_where_the_robots_units_are_nan_the_plain_flow_acts_and_then_the_last_action(ahead):
    """Above 0.2 there is no root; guidance goes there, and at last the flow itself."""
    policy = Flow(lambda obs, a, t: (obs[0] - a) / (1 - t), (HORIZON, 2))  # it ends at obs[0]
    options = {"weight": 0.5, "steps": 2, "ahead": ahead, "to_action": lambda a: jnp.sqrt(0.2 - a)}
    loop = ControlLoop(policy, CRITIC, OBS, KEY, **options)
    seen = [loop(np.array([x, 0], np.float32)) for x in [0.0] * HORIZON + [0.5] * 20]
    assert np.isfinite(seen).all() and np.allclose(seen[0], np.sqrt(0.2), atol=1e-3)
    assert loop.statistics.unguided > 1 and loop.statistics.held > 0
    with pytest.raises(ValueError, match="not finite: refusing to act"):
        ControlLoop(policy, CRITIC, OBS, KEY, **options)(np.array([0.5, 0], np.float32))


@pytest.mark.parametrize("shape", [(), (7,)])
def test_single_actions_are_not_chunks(shape):
    policy = Flow(lambda obs, a, t: -a, shape)
    with pytest.raises(ValueError, match=r"a control loop plays chunks.*`jit_sampler`.*\(1,"):
        ControlLoop(policy, bounded(lambda obs, a: jnp.sum(a)), OBS, KEY, ahead=True)


def test_where_the_critic_is_nan_the_plain_flow_acts_and_is_counted():
    bad = np.array([0, 9], np.float32)
    with loop_of(execution_horizon=2) as loop:
        loop(OBS)
        loop(bad)
        np.testing.assert_allclose(loop(bad), drawn(2, bad, weight=0)[0], rtol=1e-6)
        assert loop.statistics.unguided == 1
    broken = Flow(lambda obs, a, t: a * jnp.where(obs[0] > 5, jnp.nan, 1.0), (4, 2))
    with ControlLoop(broken, CRITIC, OBS, KEY, execution_horizon=1) as loop:
        first = loop(OBS)
        np.testing.assert_array_equal(loop(np.array([9, 0], np.float32)), first)
        assert loop.statistics.held == 1
        loop.reset()
        with pytest.raises(ValueError, match="`policy` gave an action that is not finite"):
            loop(np.array([9, 0], np.float32))


def test_clipped_numbers_are_counted_and_locked_dimensions_are_not():
    far = Flow(lambda obs, a, t: 0 * a + jnp.array([[50.0, 0.0, 0.0]]), (4, 3))
    tight = bounded(lambda obs, a: 0.0 * jnp.sum(a), np.array([-1, 0, -9]), np.array([1, 0, 9]))
    with ControlLoop(far, tight, OBS, KEY, weight=0.0) as loop:
        action = loop(OBS)
        assert action[0] == 1 and action[1] == 0 and abs(action[2]) < 9  # the second is locked
        assert loop.statistics.clipped == 0.5


def test_actions_are_in_the_robots_units():
    with loop_of(to_action=lambda a: 10 * a + 3) as loop:
        np.testing.assert_allclose(loop(OBS), 10 * drawn(1)[0] + 3, rtol=1e-5)


def test_networks_that_are_arguments_give_the_same_actions(monkeypatch):
    net = eqx.nn.MLP(5, 2, 8, 1, key=KEY)
    policy = Flow(eqx.Partial(_rows, net), (4, 2))
    found = []
    for most in (0, 10**9):
        monkeypatch.setattr("qgf_eqx._jit_sampler.CONSTANT", most)
        with ControlLoop(policy, CRITIC, OBS, KEY) as loop:
            found.append(loop(OBS))
    np.testing.assert_allclose(*found, rtol=1e-6)


def _rows(net, obs, a, t):
    return jax.vmap(lambda row: net(jnp.concatenate([obs, row, jnp.reshape(t, 1)])))(a)


@pytest.mark.parametrize(
    ("obs", "error", "message"),
    [
        (np.zeros(3, np.float32), ValueError, "`obs` must have shape \\(2,\\), got \\(3,\\)"),
        (np.array([0, np.nan]), ValueError, "`obs\\[1\\]` is nan: refusing to act on it"),
        (np.array([0, 1e300]), ValueError, "`obs\\[1\\]` is 1e\\+300: refusing to act on it"),
        (
            (OBS,),
            ValueError,
            "`obs` must be an array, got a tuple of 1",
        ),
        ("pick", TypeError, "`obs` is 'pick', which is not numbers"),
    ],
)
def test_an_observation_that_does_not_fit_is_an_error_and_no_action(obs, error, message):
    with loop_of() as loop:
        with pytest.raises(error, match=message):
            loop(obs)
        assert loop.statistics.ticks == 0
        np.testing.assert_allclose(loop(OBS.astype(float)), drawn(1)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        (np.full((2, 2), 300), ValueError, "`obs\\['eye'\\]\\[0, 0\\]` is 300, beyond uint8"),
        (np.full((2, 2), -1), ValueError, "`obs\\['eye'\\]\\[0, 0\\]` is -1, beyond uint8"),
        (np.full((2, 2), 0.5), TypeError, "`obs\\['eye'\\]` must be uint8, got float64"),
    ],
)
def test_pictures_are_bytes(picture, error, message):
    seeing = Flow(lambda obs, a, t: jnp.mean(obs["eye"]) / 255 - a, (4, 2))
    obs = {"eye": np.zeros((2, 2), np.uint8)}
    critic = bounded(lambda obs, a: jnp.sum(a))
    with ControlLoop(seeing, critic, obs, KEY) as loop:
        assert loop({"eye": np.full((2, 2), 200)}).shape == (2,)
        with pytest.raises(error, match=message):
            loop({"eye": picture})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"deadline": 0.0}, ValueError, "`deadline` must be a positive number of seconds, got 0"),
        ({"deadline": float("inf")}, ValueError, "`deadline` must be a positive number"),
        ({"execution_horizon": 9}, ValueError, "`execution_horizon` is 9, but a chunk has 8 rows"),
        ({"execution_horizon": 0}, ValueError, "`execution_horizon` must be at least 1"),
        ({"weight": np.nan}, ValueError, "`weight` must be finite"),
    ],
)
def test_options_that_cannot_be_right_are_named(options, error, message):
    with pytest.raises(error, match=message):
        loop_of(**options)


class Fails:
    """A critic by callback that can be told to raise."""

    def __init__(self):
        self.raises = False

    def ask(self, obs, action):
        if self.raises:
            raise RuntimeError("out of memory")
        return np.float32(0), np.ones_like(action)

    def __call__(self, obs, action):
        return jnp.sum(action)

    def action_gradient(self, obs, action):
        like = (
            jax.ShapeDtypeStruct((), jnp.float32),
            jax.ShapeDtypeStruct(action.shape, jnp.float32),
        )
        return jax.pure_callback(self.ask, like, obs, action, vmap_method="sequential")[1]


@pytest.mark.parametrize("options", [{}, {"deadline": 5.0}, {"ahead": True, "deadline": 5.0}])
def test_a_draw_that_raises_is_replaced_by_the_plain_flow_and_the_next_one_is_guided(options):
    critic = Fails()
    loop = ControlLoop(POLICY, bounded(critic), OBS, KEY, weight=0.1, steps=2, **options)
    with loop:
        guided = loop(OBS)
        critic.raises = True
        with pytest.warns(RuntimeWarning, match="a draw raised an error: .*out of memory") as said:
            for _ in range(3 * HORIZON):
                action = loop(OBS)
        assert len(said) == 1 < loop.statistics.raised and loop.statistics.held == 0
        assert np.isfinite(action).all() and not np.allclose(action, guided, atol=1e-3)
        critic.raises = False
        before = loop.statistics.raised
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a draw that was begun before
            for _ in range(3 * HORIZON):
                action = loop(OBS)
                loop._running[0].exception()  # waits until the thread is free
        assert loop.statistics.raised <= before + 1
        np.testing.assert_allclose(np.mean(action), np.mean(guided), atol=2.0)


def test_an_error_in_the_first_tick_is_raised():
    critic = Fails()
    with ControlLoop(POLICY, bounded(critic), OBS, KEY, weight=0.1, steps=2) as loop:
        critic.raises = True
        with pytest.raises(Exception, match="out of memory"):
            loop(OBS)
        critic.raises = False
        assert np.isfinite(loop(OBS)).all(), "and it goes on when the critic does"


class FailsToJudge(Fails):
    """So does its value."""

    def __call__(self, obs, action):
        like = jax.ShapeDtypeStruct((), jnp.float32)
        ask = lambda obs, action: self.ask(obs, action)[0]  # noqa: E731
        return jax.pure_callback(ask, like, obs, action, vmap_method="sequential")


def test_the_plain_flow_of_best_of_several_does_not_ask_the_critic():
    critic = FailsToJudge()
    loop = ControlLoop(POLICY, bounded(critic), OBS, KEY, weight=0.1, steps=2, best_of=2)
    with loop:
        loop(OBS)
        critic.raises = True
        with pytest.warns(RuntimeWarning, match="out of memory"):
            for _ in range(2 * HORIZON):
                loop(OBS)
        assert loop.statistics.held == 0 and loop.statistics.raised > 0


def test_a_late_chunk_without_ahead_is_executed_from_the_row_that_is_due():
    loop, gates, _ = stepped(loop_of(execution_horizon=1, deadline=0.4))
    assert loop(OBS)[0] == 100
    for gate in gates:
        gate.clear()
    assert loop(OBS)[0] == 100  # held: number 2 and the plain 3 are late
    gates[0].set()
    ended(loop)
    assert loop(OBS)[0] == 201
    gates[1].set()
    assert loop(OBS)[0] == 400


def test_a_tick_whose_observation_is_refused_counts():
    loop, _, _ = stepped(loop_of(execution_horizon=8))
    assert [loop(OBS)[0] for _ in range(2)] == [100, 101]
    for _ in range(3):
        with pytest.raises(ValueError, match="is nan"):
            loop(np.full(2, np.nan, np.float32))
    assert loop(OBS)[0] == 105
    for _ in range(20):
        with pytest.raises(ValueError, match="is nan"):
            loop(np.full(2, np.nan, np.float32))
    assert loop(OBS)[0] == 200


def test_a_context_of_the_thread_that_makes_the_loop_compiles_nothing_later(compilations):
    with jax.default_matmul_precision("highest"):
        loop = loop_of(ahead=True, deadline=1.0)
    with loop:
        before = len(compilations)
        for _ in range(3 * HORIZON):
            loop(OBS)
        assert len(compilations) == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to_action": lambda chunk: chunk[:6]}, ValueError, "it must keep all 8 rows"),
        ({"hold": 0}, TypeError, "`hold` must be a function"),
        ({"hold": lambda action: 0}, ValueError, "`hold` makes .* of an action of shape"),
        ({"deadline": "15ms"}, TypeError, "`deadline` must be a number of seconds"),
        ({"rate": 50}, TypeError, "`rate` is not an option of a control loop"),
    ],
)
def test_what_a_loop_cannot_use_is_refused_before_the_first_tick(
    options, error, message, unchecked
):
    with pytest.raises(error, match=message):
        loop_of(**options)


def test_a_critic_without_bounds_is_warned_of():
    with pytest.warns(RuntimeWarning, match="`critic` has no bounds"):
        ControlLoop(POLICY, value, OBS, KEY, weight=0.1, steps=2).close()

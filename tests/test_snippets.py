"""What the pages' snippets compute is what the pages say. The site's build runs them, and shows what
they print; here the numbers are held. Runs where the site can be built: some need Flax."""

import contextlib
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_claims import ROOT, run_page

from qgf_eqx.evaluate._auto import FACTORS

pytest.importorskip("mkdocs", reason="the site is built with the `docs` extra")


@pytest.fixture(autouse=True)
def _as_a_user_has_it():
    """Not the strict promotion of the tests."""
    jax.config.update("jax_numpy_rank_promotion", "allow")
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")


def run_script(name):
    """What a tutorial defines, and what it prints."""
    scope, out = {"__name__": "tutorial"}, io.StringIO()
    path = ROOT / "docs" / "tutorials" / f"{name}.py"
    with contextlib.redirect_stdout(out):
        exec(compile(path.read_text(), str(path), "exec"), scope)
    return scope, out.getvalue()


def test_beyond():
    scope, _ = run_page("beyond")
    assert scope["alone"] < 0.01 and scope["kept"] > 0.8
    assert abs(scope["share"](scope["stepped"]) - scope["flow_share"]) < 0.05
    assert jnp.max(jnp.abs(scope["masses"] - scope["tilted"].weights)) < 0.08
    chunk = scope["next_chunk"]
    assert jnp.abs(chunk[:3] - 0.8).mean() < 0.2 and chunk[5:].mean() < 0
    assert scope["kl"] > 4 * scope["error"]


def test_costs(unchecked):
    scope, _ = run_page("costs")
    counted, trained, said, four = (scope[n] for n in ("counted", "trained", "said", "four"))
    assert counted["qgf"] == counted["ood"] == 80_453_632
    assert counted["flow"] == 16_379_904 and counted["qgf-jacobian"] == 96_786_432
    assert trained["fql"] == trained["distill"] == 0.0017 and trained["qam-edit"] == 0.0181
    assert {trained[name] for name in ("flow", "edp", "qam", "dac", "qsm")} == {0.0164}
    assert trained["cfgrl"] == 0.0324 and trained["ifql"] == 0.6252
    assert 9 < counted["qgf"] / said[0] < 10 and 3.5 < four / said[1] < 4.5
    assert said[0] < said[1] / 2 and counted["qgf"] > four


def test_diagnose():
    scope, _ = run_page("diagnose")
    said = scope["said"]
    assert "too weak" in said[0.001][0] and said[0.2] == [] and "strong" in said[5.0][0]
    assert scope["far"]["guided"] < 1.2 * scope["far"]["flow"]
    assert scope["at_the_best"].mean() > 0.95


def test_guide_and_robot(unchecked):
    scope, _ = run_page("guide")
    assert scope["actions"].shape == (8, 2)
    scope, printed = run_page("robot")
    assert np.all(np.abs(scope["chunk"]) <= 1) and "`obs[1]` is nan" in printed
    assert scope["loop"].statistics.ticks == 100 and scope["following"].shape == (8, 2)


def test_solvers():
    import diffrax

    scope, _ = run_page("solvers")
    assert jnp.allclose(scope["by_hand"], scope["solve"](10, diffrax.Euler()), atol=1e-6)
    assert scope["heun"] < scope["euler"] / 5
    assert scope["error"](scope["adaptive"][0]) < 1e-3
    # Of some last layers only the gradient is needed.
    assert all(abs(ratio - 1) < 0.01 for ratio in scope["ratios"].values())


def test_weights():
    scope, printed = run_page("weights")
    tables = re.split(r"\n(?=one mode|three modes)", printed)[1:]
    rows = [[line.split() for line in t.splitlines() if line.startswith("QGF ")] for t in tables]
    weight, value, other, distance = np.array(
        [[list(map(float, row[1:5])) for row in table] for table in rows]
    ).transpose(2, 0, 1)
    assert np.all(np.diff(value) > 0) and np.all(np.diff(distance) > 0)
    assert distance[1, 5] > 1 and other[1, 5] > -0.01  # another mode, and a good one
    assert np.argmax(other[2]) == 4 and np.allclose(weight[2] / weight[2, 4], FACTORS, rtol=0.03)
    assert jnp.allclose(scope["quiet"], scope["same"], atol=1e-5)
    assert abs(scope["end"] - (scope["tilted"].mean + scope["tilted"].std))[0] < 0.01
    plain = scope["act_separately"](0)
    assert scope["held"][1] == plain[1] and scope["held"][0] != plain[0]
    act, careful = scope["act"], scope["careful"]
    assert jnp.linalg.norm(careful - act(0)) < jnp.linalg.norm(act(5.0) - act(0))
    assert len(scope["traces"]) == 1


def test_own(unchecked):
    scope, _ = run_page("own")
    assert scope["actions"].shape == (8, 2) and scope["chunk"].shape == (5, 2)
    assert scope["g"].shape == (2,)
    encoded = scope["encoded"]
    assert encoded["encode_first"] == encoded["encode_inside"] == 1
    assert encoded["encode_in_every_step"] > 10
    ensemble, by_hand, obs = scope["ensemble"], scope["by_hand"], scope["obs"]
    assert jnp.allclose(ensemble(obs, jnp.ones(2)), by_hand(obs, jnp.ones(2)), atol=1e-6)


def test_critic():
    """The critic that passed the check helps, the one that failed it hardly does."""
    _, printed = run_page("critic")
    said = dict(line.split(": ", 1) for line in printed.splitlines() if line.count(": ") == 1)
    rate = {name: int(text.rstrip(" %")) for name, text in said.items() if text.endswith("%")}
    assert rate["guided"] > 2 * rate["unguided"]
    assert rate["guided by the critic that failed the check"] < rate["guided"] / 2
    values = list(map(float, re.findall(r"fitted Q (-?[\d.]+)", printed)))
    assert values[1] > values[0]


def test_the_heart_is_short():
    scope, _ = run_page("inside")
    assert len([line for line in scope["shown"].splitlines() if line]) <= 40


@pytest.mark.parametrize("name", ["analytic", "someone_elses"])
def test_tutorials(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    scope, _ = run_script(name)
    if name == "analytic":
        assert scope["shares"][0.0] < 0.5 and scope["shares"][1.0] > 0.99
        return
    plain, params, obs = scope["plain"], scope["params"], scope["obs"]
    assert jnp.allclose(plain.mean(0), params["gain"] @ obs, atol=0.03)
    assert jnp.allclose(plain.std(0), params["std"], atol=0.05)
    assert scope["analysis"].warnings_of(scope["seen"]) == []
    assert scope["value"](scope["guided"]).mean() > scope["value"](plain).mean()
    assert scope["actions"]._cache_size() == 1

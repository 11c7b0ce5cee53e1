"""The page's two ways to use a PyTorch model, where PyTorch is installed."""

import re
import textwrap
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qgf_eqx
from qgf_eqx.guidance import qgf_jacobian

torch = pytest.importorskip("torch")
PAGE = Path(__file__).parent.parent / "docs" / "foreign.md"


@pytest.fixture(scope="module")
def page():
    """What the page defines with PyTorch."""
    torch.manual_seed(0)
    scope = {"jax": jax, "jnp": jnp, "np": np, "qgf_eqx": qgf_eqx}
    section = PAGE.read_text().split("## A PyTorch model")[1].split("\n## ")[0]
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", section, re.MULTILINE):
        exec(textwrap.dedent(block), scope)
    return scope


@pytest.mark.parametrize("batch", [0, 5])
@pytest.mark.parametrize("options", [{"weight": 0.3}, {"weight": 0.3, "best_of": 3}])
def test_a_callback_and_a_rebuilt_network_act_alike(page, batch, options):
    def act(policy, critic):
        draw = partial(qgf_eqx.sample, page[policy], page[critic], **options)
        return jax.jit(jax.vmap(draw) if batch else draw)

    shape = (batch, 3) if batch else (3,)
    obs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    key = jax.random.key(1)
    key = jax.random.split(key, batch) if batch else key
    rebuilt, called = act("policy", "critic"), act("policy_by_callback", "critic_by_callback")
    np.testing.assert_allclose(called(obs, key), rebuilt(obs, key), atol=1e-5)


def test_the_rebuilt_networks_are_pytorchs(page):
    rng = np.random.default_rng(1)
    obs, a_t, t = (rng.normal(size=shape).astype(np.float32) for shape in ((3,), (8, 2), (1,)))
    wanted = page["torch_velocity"](obs, a_t, t)
    np.testing.assert_allclose(page["velocity"](obs, a_t, t[0]), wanted, atol=1e-6)
    np.testing.assert_allclose(page["value"](obs, a_t), page["torch_value"](obs, a_t), atol=1e-6)
    slope = jax.grad(page["value"], argnums=1)(obs, jnp.asarray(a_t))
    np.testing.assert_allclose(page["torch_gradient"](obs, a_t), slope, atol=1e-6)


def test_what_differentiates_the_policy_takes_the_rebuilt_one_only(page):
    options = {"weight": 0.1, "guidance": qgf_jacobian}
    key, obs = jax.random.key(0), jnp.zeros(3)
    found = qgf_eqx.sample(page["policy"], page["critic"], obs, key, **options)
    assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="(?i)callback"):
        qgf_eqx.sample(page["policy_by_callback"], page["critic_by_callback"], obs, key, **options)

"""The page's way to ONNX, where jax2onnx and onnxruntime are installed: they want an older JAX."""

import re
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

import qgf_eqx

pytest.importorskip("jax2onnx")
pytest.importorskip("onnxruntime")

PAGE = Path(__file__).parents[2] / "docs" / "robot.md"


def test_the_pages_way_to_onnx_gives_the_samplers_actions(tmp_path, monkeypatch):
    page = PAGE.read_text()
    setting = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    (recipe,) = [
        block
        for block in re.findall(r"(?:^(?: {4}.*)?\n)+", page, re.MULTILINE)
        if "to_onnx" in block
    ]
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(setting, scope)
    scope["obs"] = np.array([0.3, -0.2, 0.5], np.float32)
    exec(textwrap.dedent(recipe), scope)
    key = jax.random.key(3)
    shape = scope["noise"].shape
    noise = np.asarray(jax.random.normal(key, shape), np.float32)
    session, names = scope["session"], scope["names"]
    (action,) = session.run(None, dict(zip(names, (scope["obs"], noise), strict=True)))
    wanted = jax.jit(scope["from_noise"])(scope["obs"], noise)
    np.testing.assert_allclose(action, wanted, atol=1e-6)
    nets, start = (scope["policy"], scope["critic"]), jax.numpy.asarray(noise)
    plain = qgf_eqx.guided_flow(*nets, scope["obs"], start, weight=0.0)
    assert np.abs(action - np.clip(plain, -1, 1)).max() > 1e-3  # the guidance is in it

"""A sampler in a file, run by JAX alone."""

import json
import subprocess
import sys
import zipfile
from functools import partial

import jax
import numpy as np
import pytest

from qgf_eqx import bounded, sample
from qgf_eqx.deploy.export import export
from qgf_eqx.nn import CriticMLP, Ensemble, VelocityMLP

SHAPE = (4, 2)
RUN = """
import json, sys, zipfile
import jax
import numpy as np

path, inputs = sys.argv[1:]
with zipfile.ZipFile(path) as file:
    program = jax.export.deserialize(bytearray(file.read("program.bin")))
given = np.load(inputs)
obs = {"place": given["place"], "eye": given["eye"]}
np.save(inputs + ".found.npy", program.call(obs, given["keys"]))
print([name for name in ("equinox", "qgf_eqx", "diffrax") if name in sys.modules])
"""


def flat(obs):
    return {"place": obs["place"], "eye": obs["eye"].astype(np.float32) / 255}


@pytest.fixture(scope="module")
def act():
    keys = jax.random.split(jax.random.key(0), 2)
    policy = VelocityMLP(3, SHAPE, width=16, depth=2, key=keys[0])
    make = lambda key: CriticMLP(3, SHAPE, width=16, depth=2, key=key)  # noqa: E731
    critic = bounded(Ensemble(make, 2, key=keys[1]))
    draw = partial(sample, policy, critic, weight=0.1, steps=3, best_of=2)
    return lambda obs, key: draw(obs["place"] + obs["eye"].sum(), key)


def some(count):
    rng = np.random.default_rng(count)
    eye = rng.integers(0, 9, (count, 2, 2)).astype(np.uint8)
    return {"place": rng.normal(size=(count, 3)).astype(np.float32), "eye": eye}


@pytest.mark.usefixtures("loose_promotion")
def test_a_file_has_the_bits_of_the_sampler_for_any_batch_in_a_process_of_jax_alone(act, tmp_path):
    one = jax.tree.map(lambda leaf: leaf[0], some(1))
    path = export(act, one, tmp_path / "sub" / "policy.zip", about={"robot": "left"})
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == ["metadata.json", "program.bin"]
        about = json.loads(file.read("metadata.json"))
    assert about["obs"]["obs['eye']"] == {"shape": [2, 2], "dtype": "uint8"}
    assert about["action"] == [{"shape": list(SHAPE), "dtype": "float32"}]
    assert about["robot"] == "left" and about["platforms"] == ["cpu", "cuda"]
    for count in (1, 5):
        obs, keys = some(count), jax.random.split(jax.random.key(count), count)
        inputs = tmp_path / f"{count}.npz"
        np.savez(inputs, **obs, keys=jax.random.key_data(keys))
        line = [sys.executable, "-c", RUN, str(path), str(inputs)]
        printed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        assert printed.strip() == "[]"
        found = np.load(f"{inputs}.found.npy")
        np.testing.assert_array_equal(found, jax.jit(jax.vmap(act))(obs, keys))


def test_without_flatbuffers_it_says_what_to_install(act, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match="pip install 'qgf_eqx\\[export\\]'"):
        export(act, {}, tmp_path / "policy.zip")
    assert not list(tmp_path.iterdir())

import json
import os
import signal
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import checkpoint
from qgf_eqx.checkpoint import CheckpointError
from qgf_eqx.nn import CriticMLP, ValueMLP, VelocityMLP, low_frequency_time, paper_time

KEY = jax.random.key(0)


def value(width=4, depth=2, size=3, seed=0):
    return ValueMLP(size, width=width, depth=depth, key=jax.random.key(seed))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, value(), {"step": 7})
    return path


def test_what_is_loaded_is_what_was_saved(saved):
    loaded, metadata = checkpoint.load(saved, value(seed=1))
    assert eqx.tree_equal(loaded, value()) and metadata == {"step": 7}
    assert checkpoint.read_metadata(saved) == {"step": 7}
    shapes = eqx.filter_eval_shape(value)
    assert eqx.tree_equal(checkpoint.load(saved, shapes)[0], value())


def test_any_pytree_of_arrays_is_kept(tmp_path):
    tree = {"a": (jnp.arange(3), np.float64(2)), "b": [None, jnp.zeros((), bool)], "c": "text"}
    checkpoint.save(tmp_path / "t", tree, {})
    loaded, _ = checkpoint.load(tmp_path / "t", jax.tree.map(lambda x: x, tree))
    assert eqx.tree_equal(loaded["a"][0], jnp.arange(3)) and loaded["c"] == "text"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: value(width=5),
            r"`\.mlp\.layers\[0\]\.weight` is float32\[4, 3\] in the file, but",
        ),
        (lambda: value(depth=3), r"`\.mlp\.layers\[2\]\.weight` is missing in the file"),
        (lambda: value(depth=1), r"is float32.* in the file, but missing in the model"),
        (lambda: CriticMLP(2, (1,), width=4, depth=2, key=KEY), "static parts.*ValueMLP"),
        (lambda: eqx.tree_at(lambda m: m.mlp.head.bias, value(), jnp.zeros(1, int)), "head.bias"),
    ],
)
def test_another_model_is_refused_by_the_first_leaf_that_differs(saved, other, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(saved, other())


def test_types_that_cannot_be_read_back_are_refused_before_they_are_written(tmp_path):
    for leaf in (jnp.zeros(2, jnp.bfloat16), jax.random.key(0)):
        with pytest.raises(CheckpointError, match=r"`\['x'\]` is .*, which is not stored"):
            checkpoint.save(tmp_path / "c", {"x": leaf}, {})
    assert not any(tmp_path.iterdir())


def test_metadata_is_what_json_makes_of_it(tmp_path):
    checkpoint.save(tmp_path / "c", value(), {"x": {2: 1, 10: (1, 2)}})
    assert checkpoint.read_metadata(tmp_path / "c") == {"x": {"2": 1, "10": [1, 2]}}


def test_another_time_embedding_of_the_same_size_is_refused(tmp_path):
    def net(embed):
        return VelocityMLP(2, (3,), width=4, embed=embed, key=KEY)

    def same_size(t):
        return low_frequency_time(t) * 2

    checkpoint.save(tmp_path / "c", net(low_frequency_time), {})
    with pytest.raises(CheckpointError, match="static parts.*low_frequency_time"):
        checkpoint.load(tmp_path / "c", net(same_size))
    with pytest.raises(CheckpointError, match="layers"):
        checkpoint.load(tmp_path / "c", net(paper_time))


def test_a_file_cut_at_any_byte_is_refused(saved):
    data = saved.read_bytes()
    for length in range(0, len(data), 7):
        saved.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"damaged"):
            checkpoint.load(saved, value())


def test_a_flipped_byte_never_loads_other_numbers(saved):
    data = saved.read_bytes()
    like, refused = value(seed=1), 0
    for position in range(len(data)):
        saved.write_bytes(data[:position] + bytes([data[position] ^ 0x21]) + data[position + 1 :])
        try:
            loaded, metadata = checkpoint.load(saved, like)
        except CheckpointError:
            refused += 1
        else:
            assert eqx.tree_equal(loaded, value()) and metadata == {"step": 7}, position
    assert refused > 0.99 * len(data)


def test_swapped_leaves_are_noticed(saved):
    data = bytearray(saved.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    a, b = ".mlp.norms[0].weight", ".mlp.norms[0].bias"
    header[a], header[b] = header[b], header[a]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    saved.write_bytes(data[:8] + text + data[8 + size :])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(saved, value())


def test_another_format_is_named(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", "qgf_eqx 0")
    checkpoint.save(saved, value(), {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has the format `qgf_eqx 0`; this version reads"):
        checkpoint.load(saved, value())


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04N.", b"\xff" * 64])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(CheckpointError, match="no checkpoint of this package"):
        checkpoint.load(tmp_path / "f", value())


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        checkpoint.load(tmp_path / "none", value())


def test_a_failed_write_leaves_the_old_file_and_no_leftover(saved, monkeypatch):
    before = saved.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(saved, value(seed=1), {})
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


_WRITER = """
import sys, jax
from qgf_eqx import checkpoint
from qgf_eqx.nn import ValueMLP
values = [ValueMLP(3, width=64, depth=2, key=jax.random.key(i)) for i in range(2)]
print("ready", flush=True)
i = 0
while True:
    checkpoint.save(sys.argv[1], values[i % 2], {"i": i}); i += 1
"""


def test_killed_while_writing_one_of_the_two_is_whole(tmp_path):
    path = tmp_path / "c"
    checkpoint.save(path, value(width=64), {"i": -1})
    rng = np.random.default_rng(0)
    with subprocess.Popen([sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(10):
            os.kill(writer.pid, signal.SIGCONT)
            signal.sigtimedwait([], rng.uniform(0.001, 0.02))
            os.kill(writer.pid, signal.SIGSTOP)  # frozen mid-write, as a kill would leave it
            checkpoint.load(path, value(width=64))
        os.kill(writer.pid, signal.SIGKILL)
    checkpoint.load(path, value(width=64))

import base64
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_eqx import checkpoint
from qgf_eqx._files import write_atomically
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
            r"`\.mlp\.layers\[0\]\.kernel` is float32\[3, 4\] in the file, but",
        ),
        (lambda: value(depth=3), r"`\.mlp\.layers\[2\]\.kernel` is missing in the file"),
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
    with pytest.raises(CheckpointError, match="not a checkpoint of this package"):
        checkpoint.load(tmp_path / "f", value())


def scale(x, by=1.0):
    return by * x


def shift(x):
    return x + 1


@dataclasses.dataclass(frozen=True)
class Scaled:
    by: float

    def __call__(self, x):
        return self.by * x

    def method(self, x):
        return self.by * x


class Opaque:
    def __call__(self, x):
        return x

    def method(self, x):
        return x


def inside(k):
    def closure(x):
        return k * x

    return closure


def twins():
    """Pairs that are equal, and a neighbour that is not: made anew on each call."""
    partial, jax_partial = functools.partial, jax.tree_util.Partial
    return {
        "functions": (scale, scale, shift),
        "of JAX": (jnp.min, jnp.min, jnp.max),
        "ufuncs": (jnp.maximum, jnp.maximum, jnp.minimum),
        "activations": (jax.nn.relu, jax.nn.relu, jax.nn.gelu),
        "of NumPy": (np.add, np.add, np.subtract),
        "partials": (partial(scale, by=2.0), partial(scale, by=2.0), partial(scale, by=3.0)),
        "partials of others": (partial(scale, 2.0), partial(scale, 2.0), partial(shift, 2.0)),
        "partials in partials": (
            partial(map, partial(scale, by=2)),
            partial(map, partial(scale, by=2)),
            partial(map, partial(scale, by=3)),
        ),
        "of an array": tuple(partial(scale, by=np.full(3, n)) for n in (1.0, 1.0, 2.0)),
        "Equinox partials": (
            eqx.Partial(scale, by=2),
            eqx.Partial(scale, by=2),
            eqx.Partial(shift),
        ),
        "JAX partials": (jax_partial(scale, by=2), jax_partial(scale, by=2), jax_partial(shift)),
        "methods": (Scaled(2.0).method, Scaled(2.0).method, Scaled(3.0).method),
        "dataclasses": (Scaled(2.0), Scaled(2.0), Scaled(3.0)),
        "dtypes": (np.dtype("f4"), np.dtype("f4"), np.dtype("f8")),
        "types": (jnp.float32, jnp.float32, jnp.float16),
        "numbers": (1, 1, 1.0),
        "truth": (True, True, 1),
        "nothing": (None, None, 0),
        "texts": ("a", "a", "b"),
        "tuples": ((1, (2, "x")), (1, (2, "x")), (1, [2, "x"])),
        "dictionaries": ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}),
    }


class Static(eqx.Module):
    weight: jax.Array
    inner: object = eqx.field(static=True)


@pytest.mark.parametrize("kind", twins())
@pytest.mark.parametrize("hold", ["static", "leaf"])
def test_static_parts_load_if_they_are_equal_and_only_then(tmp_path, kind, hold):
    def model(inner):
        return Static(jnp.ones(2), inner) if hold == "static" else (jnp.ones(2), [inner])

    part, equal, other = twins()[kind]
    checkpoint.save(tmp_path / "c", model(part), {})
    checkpoint.load(tmp_path / "c", model(equal))
    with pytest.raises(CheckpointError, match=r"static parts: `(\.inner|\[1\]).* in the file, but"):
        checkpoint.load(tmp_path / "c", model(other))


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x,
        inside(2),
        Opaque(),
        Opaque().method,
        functools.partial(lambda x: x),
        functools.partial(scale, by=Opaque()),
        eqx.Partial(inside(2)),
        jax.tree_util.Partial(inside(2)),
        functools.wraps(scale)(lambda x: -x),
        [].append,
        functools.partial(scale, by=np.array([None])),
        Scaled(Opaque()),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_compared_is_not_saved(tmp_path, part):
    for tree, name in (
        (Static(jnp.ones(2), {"key": (1, part)}), r"\.inner\['key'\]\[1\]"),
        ([part, jnp.ones(2)], r"\[0\]"),
    ):
        with pytest.raises(CheckpointError, match=f"`{name}.*cannot be saved.* top of a module"):
            checkpoint.save(tmp_path / "c", tree, {})
    assert not any(tmp_path.iterdir())


def test_numpy_arrays_keep_their_numbers_and_type(tmp_path):
    checkpoint.save(tmp_path / "c", [np.full(2, 1 / 3)], {})
    ((found,), _) = checkpoint.load(tmp_path / "c", [np.zeros(2)])
    assert found.dtype == np.float64 and found.tolist() == [1 / 3, 1 / 3]


def test_a_lambda_never_loads_as_another(tmp_path):
    checkpoint.save(tmp_path / "c", Static(jnp.ones(2), scale), {})
    with pytest.raises(CheckpointError, match="does not find by a name"):
        checkpoint.load(tmp_path / "c", Static(jnp.ones(2), lambda x: x))


def test_metadata_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="`metadata` holds what JSON cannot"):
        checkpoint.save(tmp_path / "c", value(), {"x": object()})


# Saved by the version before this one, in the format `qgf_eqx 1`: a `Static`, with `scale`.
FIRST_FORMAT = """
KAEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJxZ2ZfZXF4Ijoie1wiZm9ybWF0XCI6IFwicWdmX2VxeCAxXCIsIFwibWV0YWRh
dGFcIjoge1wic3RlcFwiOiA3fSwgXCJzaGEyNTZcIjogXCI4ZmMxOTM2MTcxZDVjNmY1MGI2YzczYmNkYjJmN2MyMDk4ZTBk
ZTE1YzFiYThjNDg5ZTlmY2Y3MmQxNzFhNTc4XCIsIFwic3RydWN0dXJlXCI6IFwiU3RhdGljKHdlaWdodD1mMzJbMl0sIGlu
bmVyPTxmdW5jdGlvbiBzY2FsZT4pXCJ9In0sIi53ZWlnaHQiOnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6WzJdLCJkYXRhX29m
ZnNldHMiOlswLDhdfX0gIAAAgD8AAABA
"""


def test_a_checkpoint_of_the_first_format_still_loads(tmp_path):
    path = tmp_path / "old"
    path.write_bytes(base64.b64decode(FIRST_FORMAT))
    loaded, metadata = checkpoint.load(path, Static(jnp.zeros(2), scale))
    assert loaded.weight.tolist() == [1, 2] and metadata == {"step": 7}
    with pytest.raises(CheckpointError, match="static parts: .*scale.*shift"):
        checkpoint.load(path, Static(jnp.zeros(2), shift))


def test_a_lambda_of_the_first_format_is_refused_unless_it_has_a_name(saved):
    def resealed(tree):
        checkpoint.save(saved, jax.tree.map(lambda x: x, tree), {})
        arrays, header, _ = checkpoint._read(saved)
        text = eqx.tree_pformat(tree, width=80, short_arrays=True, struct_as_array=True)
        text = text.replace("scale", "<lambda>")
        reseal(saved, arrays, header | {"format": "qgf_eqx 1", "structure": text})

    mlp = eqx.nn.MLP(2, 2, 4, 1, key=KEY)  # its identity is a lambda that Equinox gave a name to
    resealed(mlp)
    assert eqx.tree_equal(checkpoint.load(saved, mlp)[0], mlp)
    resealed(Static(jnp.ones(2), scale))
    with pytest.raises(CheckpointError, match="older version .* lambda"):
        checkpoint.load(saved, Static(jnp.ones(2), lambda x: x))


def test_equinox_networks_and_optax_states_are_kept(tmp_path):
    import optax

    network = eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=KEY)
    state = optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(eqx.filter(network, eqx.is_array))
    for tree in (network, state, {"both": (network, state)}):
        checkpoint.save(tmp_path / "c", tree, {})
        assert eqx.tree_equal(checkpoint.load(tmp_path / "c", tree)[0], tree)
    other = eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, final_activation=jnp.tanh, key=KEY)
    checkpoint.save(tmp_path / "c", network, {})
    with pytest.raises(CheckpointError, match=r"`\.final_activation` is `equinox\..*` in the file"):
        checkpoint.load(tmp_path / "c", other)


def reseal(path, arrays, header):
    """Writes a file whose checksum is right whatever it holds: what a hostile hand can do."""
    from safetensors.numpy import save

    header = {k: v for k, v in header.items() if k != "sha256"}
    header["sha256"] = checkpoint._digest(arrays, header)
    path.write_bytes(save(arrays, {"qgf_eqx": json.dumps(header)}))


def substitutes(document, values=(None, True, -1, 1e999, "", "x", [], {}, [[]], {"a": 1})):
    """The document with one value replaced, or one key removed, everywhere."""
    yield from values
    if isinstance(document, dict):
        for key, value in document.items():
            yield {k: v for k, v in document.items() if k != key}
            yield from ({**document, key: other} for other in substitutes(value, values))
    elif isinstance(document, list):
        for i, value in enumerate(document):
            yield document[:i] + document[i + 1 :]
            yield from ([*document[:i], o, *document[i + 1 :]] for o in substitutes(value, values))


def test_any_json_value_anywhere_in_a_sealed_file_is_refused_or_harmless(saved):
    arrays, header, _ = checkpoint._read(saved)
    header = {k: header[k] for k in ("format", "structure", "metadata")}
    whole = value()
    for other in substitutes(header):
        if isinstance(other, dict):
            reseal(saved, arrays, other)
            try:
                assert eqx.tree_equal(checkpoint.load(saved, whole)[0], whole)
            except CheckpointError:
                pass


def test_threads_that_save_one_path_do_not_collide(tmp_path):
    path, errors, gate = tmp_path / "c", [], threading.Barrier(4)

    def work(i):
        try:
            gate.wait()
            for _ in range(10):
                with write_atomically(path) as file:
                    file.write(bytes([i]) * 100_000)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert not errors and len(set(path.read_bytes())) == 1 and os.listdir(tmp_path) == ["c"]


def test_a_folder_in_the_place_of_the_file_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        checkpoint.load(tmp_path, value())


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

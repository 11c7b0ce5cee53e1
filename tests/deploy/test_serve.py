"""The policy server: what a client gets, and what it cannot break."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from qgf_eqx import Flow, bounded, sample
from qgf_eqx.deploy._wire import WireError, pack, unpack
from qgf_eqx.deploy.serve import PolicyServer

POLICY = Flow(lambda obs, a, t: jnp.mean(obs) - a, (4, 2))
CRITIC = bounded(lambda obs, a: jnp.sum(a) * jnp.where(obs[0] > 5, jnp.nan, 1.0))
OBS = np.zeros(3, np.float32)
act = partial(sample, POLICY, CRITIC, weight=0.1, steps=2)
serving = partial(PolicyServer, act, OBS, jax.random.key(0), port=0, largest_batch=4)


@pytest.fixture(scope="module")
def server():
    with serving(metadata={"robot": "left", "low": np.zeros(2)}, largest_frame=100_000) as server:
        yield server


@pytest.fixture
def client(server):
    with connected(server) as client:
        unpack(client.recv())
        yield client


def connected(server):
    return connect(f"ws://127.0.0.1:{server.port}", compression=None)


def asked(client, message):
    client.send(message if isinstance(message, bytes | str) else pack(message))
    found = client.recv()
    return found if isinstance(found, str) else unpack(found)


def is_well(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", "/healthz")
    return connection.getresponse().read() == b"OK\n"


def test_a_client_is_told_about_the_policy_and_gets_its_actions(server):
    with connected(server) as client:
        about = unpack(client.recv())
        assert about["robot"] == "left" and about["low"].tolist() == [0, 0]
        obs = np.array([0.5, 0, 0])
        found = asked(client, {"obs": obs, "seed": 7, "prompt": "pick"})
        assert found["server_timing"]["infer_ms"] > 0
        wanted = act(obs.astype(np.float32), jax.random.key(7))
        np.testing.assert_allclose(found["actions"], wanted, rtol=1e-5, atol=1e-6)
        one, other = (asked(client, {"obs": obs})["actions"] for _ in range(2))
        assert np.abs(one - other).max() > 1e-3  # each has a key of its own
    assert is_well(server)


def array(dtype, data, shape):
    return {b"__ndarray__": True, b"dtype": dtype, b"data": data, b"shape": shape}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"\xc1garbage", "the message is not msgpack"),
        (pack({"obs": OBS})[:-5], "the message is not msgpack"),
        ("hello", "the message is a text"),
        (msgpack.packb([1, 2]), "the message must be a dict, got list"),
        ({"state": OBS}, "the message must have obs, got state"),
        ({"obs": OBS, "seed": -1}, "`seed` must be an integer of 32 bits, got -1"),
        ({"obs": np.zeros(4)}, "`obs` must have shape \\(3,\\), got \\(4,\\)"),
        ({"obs": np.array([0, np.nan, 0])}, "`obs\\[1\\]` is nan"),
        ({"obs": "three"}, "`obs` is 'three', which is not numbers"),
        (msgpack.packb({"obs": array("|O", b"\0" * 24, [3])}), "an array of object"),
        (msgpack.packb({"obs": array("<f4", b"\0" * 11, [3])}), "an array that cannot be read"),
        (msgpack.packb({"obs": array("<f4", b"\0" * 12, [2**40])}), "that cannot be read"),
        (msgpack.packb({"obs": {b"__ndarray__": True}}), "an array that cannot be read"),
    ],
)
def test_what_cannot_be_read_is_answered_by_a_sentence(server, client, message, said):
    assert re.search(said, asked(client, message))
    assert asked(client, {"obs": OBS})["actions"].shape == (4, 2)
    assert is_well(server)


def test_a_frame_that_is_too_large_ends_its_connection_alone(server, client):
    with connected(server) as other:
        other.recv()
        other.send(b"\0" * 200_000)
        with pytest.raises(ConnectionClosedError):
            other.recv()
    assert asked(client, {"obs": OBS})["actions"].shape == (4, 2)


def test_a_client_that_goes_in_the_middle_of_a_call_leaves_nothing(server, client):
    for _ in range(20):
        with connected(server) as other:
            other.recv()
            other.send(pack({"obs": OBS}))
            other.socket.shutdown(socket.SHUT_RDWR)
    assert asked(client, {"obs": OBS})["actions"].shape == (4, 2)
    assert is_well(server)


def test_many_clients_are_answered_each_with_its_own(server):
    wrong = []

    def ask(number):
        with connected(server) as client:
            client.recv()
            for call in range(20):
                obs = np.full(3, number / 50, np.float32)
                found = asked(client, {"obs": obs, "seed": call})["actions"]
                wanted = known[number, call]
                if not np.allclose(found, wanted, atol=1e-5):
                    wrong.append((number, call))

    pairs = [(number, call) for number in range(50) for call in range(20)]
    obs = np.stack([np.full(3, number / 50, np.float32) for number, _ in pairs])
    keys = jnp.stack([jax.random.key(call) for _, call in pairs])
    known = dict(zip(pairs, np.asarray(jax.jit(jax.vmap(act))(obs, keys)), strict=True))
    used = []
    for _ in range(3):  # the first round has its threads and buffers still to make
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        used.append(resident())
    assert not wrong and is_well(server)
    assert used[-1] - used[0] < 20, used  # MiB


def resident():
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_requests_that_wait_together_are_one_batch():
    sizes, gate = [], threading.Event()
    with serving() as server, ExitStack() as opened:
        drawn = server._drawn

        def slow(draw, batch):
            sizes.append(len(batch))
            assert gate.wait(20)
            return drawn(draw, batch)

        server._drawn = slow
        clients = [opened.enter_context(connected(server)) for _ in range(6)]
        for client in clients:
            client.recv()
            client.send(pack({"obs": OBS, "seed": 3}))
            while not sizes:
                pass
        while server._asked.qsize() < 5:
            pass
        gate.set()
        found = [unpack(client.recv())["actions"] for client in clients]
    assert sizes == [1, 4, 1]
    np.testing.assert_allclose(found, [found[0]] * 6, atol=1e-6)


def test_what_the_policy_raises_stays_on_the_server(caplog):
    def broken(obs, key):
        return obs

    with PolicyServer(broken, OBS, jax.random.key(0), port=0, largest_batch=1) as server:
        server._drawn = lambda draw, batch: 1 / 0
        with connected(server) as client:
            client.recv()
            said = asked(client, {"obs": OBS})
            assert said == "the policy failed on this observation; the server's log says more."
            server._drawn = lambda draw, batch: [np.full(2, np.nan)]
            assert "not finite" in asked(client, {"obs": OBS})
    assert "the policy failed" in caplog.text and "ZeroDivisionError" in caplog.text


def test_too_many_clients_are_turned_away():
    with serving(most_clients=1, largest_batch=1) as server, connected(server) as first:
        first.recv()
        with pytest.raises(InvalidStatus, match="503"), connected(server):
            pass
        assert is_well(server)


def test_observations_may_be_dicts_or_have_a_goal():
    of = lambda obs, key: obs["place"] * 2  # noqa: E731
    with PolicyServer(of, {"place": OBS}, jax.random.key(0), port=0, largest_batch=1) as server:
        with connected(server) as client:
            client.recv()
            np.testing.assert_array_equal(asked(client, {"place": OBS + 1})["actions"], [2, 2, 2])
            assert asked(client, {"where": OBS}) == "`obs` lacks 'place'."
            assert asked(client, {"place": OBS, "x": OBS}) == "`obs` must not have 'x'."
    to = lambda obs, key: obs[1] - obs[0]  # noqa: E731
    pair = OBS, OBS
    with PolicyServer(to, pair, jax.random.key(0), port=0, largest_batch=1) as server:
        with connected(server) as client:
            client.recv()
            found = asked(client, {"state": OBS, "goal": OBS + 3})["actions"]
            np.testing.assert_array_equal(found, [3, 3, 3])


def test_numbers_of_numpy_go_both_ways():
    message = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.float32(0.5), "c": [True]}
    found = unpack(pack(message))
    np.testing.assert_array_equal(found["a"], message["a"])
    assert found["a"].dtype == np.int16 and found["b"] == 0.5 and found["c"] == [True]
    for wrong in (np.array(["x"]), object()):
        with pytest.raises(TypeError):
            pack({"a": wrong})
    with pytest.raises(WireError, match="is not msgpack"):
        unpack(b"")


CLIENT = """
import json, sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

client = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]))
found = client.infer({"obs": np.array([0.5, 0.0, 0.0]), "seed": 7, "prompt": "pick"})
try:
    client.infer({"obs": np.zeros(4)})
except RuntimeError as error:
    said = str(error)
again = client.infer({"obs": np.array([0.5, 0.0, 0.0]), "seed": 7})
told = {"actions": found["actions"].tolist(), "again": again["actions"].tolist(), "said": said}
print(json.dumps({**told, "about": client.get_server_metadata()["robot"], "numpy": np.__version__}))
"""


@pytest.mark.slow
def test_the_real_client_of_openpi_gets_the_actions_of_sample(server, tmp_path):
    python = tmp_path / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    # It imports typing_extensions, and does not say so.
    packages = ["openpi-client", "typing_extensions"]
    install = [str(python), "-m", "pip", "install", "-q", *packages]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("openpi-client cannot be installed here")
    line = [str(python), "-c", CLIENT, str(server.port)]
    found = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    wanted = act(np.array([0.5, 0, 0], np.float32), jax.random.key(7))
    np.testing.assert_allclose(found["actions"], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["again"], found["actions"])
    assert found["about"] == "left" and "must have shape (3,), got (4,)" in found["said"]


def test_the_fallback_is_drawn_where_guidance_is_not_finite():
    """And only there: the others in the same batch keep their guided action."""
    plain, high = partial(sample, POLICY, CRITIC, weight=0, steps=2), OBS + 9
    with serving(fallback=plain) as server, connected(server) as client:
        client.recv()
        told = asked(client, {"obs": high, "seed": 3})
        np.testing.assert_allclose(told["actions"], plain(high, jax.random.key(3)), rtol=1e-6)
        assert told["fallback"] is True and server.fallbacks == 1
        told = asked(client, {"obs": OBS, "seed": 3})
        np.testing.assert_allclose(told["actions"], act(OBS, jax.random.key(3)), rtol=1e-6)
        assert "fallback" not in told and server.fallbacks == 1
        keys = [jax.random.key(i) for i in range(3)]
        found = server._sound(list(zip([OBS, high, OBS], keys, strict=True)))
        assert [guided for _, guided in found] == [True, False, True]
        for (action, guided), obs, key in zip(found, [OBS, high, OBS], keys, strict=True):
            wanted = (act if guided else plain)(obs, key)
            np.testing.assert_allclose(action, wanted, rtol=1e-6, atol=1e-7)


def test_a_taken_port_is_refused_before_anything_is_compiled():
    def never(obs, key):
        raise AssertionError("it was compiled")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="in use"):
            PolicyServer(never, OBS, jax.random.key(0), port=taken.getsockname()[1])
    with pytest.raises(ValueError, match="`port` must be from 0 to 65535, got 99999"):
        PolicyServer(never, OBS, jax.random.key(0), port=99999)


def test_a_server_that_was_never_entered_can_be_closed():
    server = serving(largest_batch=1)
    closing = threading.Thread(target=server.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    server.close()


def test_a_web_page_is_turned_away(server):
    address = f"ws://127.0.0.1:{server.port}"
    with pytest.raises(InvalidStatus, match="403"), connect(address, origin="https://evil.example"):
        pass
    assert is_well(server)


def test_what_an_observation_is_instead_is_said_in_words(client):
    for wrong, said in (({"obs": [1, 2, 3]}, "a list of 3"), ({"obs": 1.5}, None)):
        found = asked(client, wrong)
        assert isinstance(found, str) and (
            said is None or f"`obs` must be an array, got {said}" in found
        )


def test_a_fallback_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"`fallback` makes \(7,\), and `act` \(4, 2\)"):
        serving(fallback=lambda obs, key: jnp.zeros(7))


def test_until_all_is_compiled_a_client_is_refused_and_may_try_again(monkeypatch):
    real, tried = PolicyServer._warm, []

    def warm(self, obs):
        (port,) = ports
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        tried.append(port)
        return real(self, obs)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1]]
    monkeypatch.setattr(PolicyServer, "_warm", warm)
    with serving(port=ports[0]) as server:
        assert tried == [server.port] and is_well(server)


@pytest.mark.parametrize("key", [jax.random.PRNGKey(0), jax.random.key(0, impl="rbg")])
def test_keys_of_any_kind_go_with_seeds(key):
    with PolicyServer(act, OBS, key, port=0, largest_batch=2) as server:
        with connected(server) as client:
            client.recv()
            one, again = (asked(client, {"obs": OBS, "seed": 3})["actions"] for _ in range(2))
            np.testing.assert_array_equal(one, again)
        expected = server._expected(OBS)
        asked_for = [(expected, server._seeded(3)), (expected, jax.random.fold_in(server._key, 1))]
        assert len(server._drawn(server._draw, asked_for)) == 2, "both in one batch"


def test_a_long_list_is_refused_before_it_is_walked_through(server, client):
    assert "4096" in asked(client, {"obs": [0.0] * 5000})
    assert is_well(server)

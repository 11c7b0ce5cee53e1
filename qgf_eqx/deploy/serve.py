"""A policy server that robots with openpi's client call unchanged."""

import http
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import numpy as np

try:
    import msgpack as _msgpack  # noqa: F401
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.server import serve as listen
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.deploy.serve needs websockets and msgpack ({error}): pip install 'qgf_eqx[serve]'"
    ) from error

from .._checks import check_count, check_key
from .._types import Action, Key, Obs
from ._collector import settle
from ._observation import Expected
from ._wire import WireError, pack, unpack

log = logging.getLogger(__name__)
LARGEST_FRAME = 2**24
"""Bytes of a message: 16 MiB, five pictures of 1000 x 1000."""


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has its address, and listens later."""
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except BaseException:
        found.close()
        raise
    return found


class PolicyServer:
    """Serves a sampler over websockets, in the protocol of openpi's `WebsocketClientPolicy`.

    A client gets `metadata` when it connects. It sends observations, and for each gets
    `{"actions": ..., "server_timing": {"infer_ms": ...}}`, or an error message as text; the
    connection stays open. Requests that wait together are drawn as one batch. `GET /healthz`
    answers OK.

    ```python
    act = functools.partial(qgf_eqx.sample, policy, critic, weight=0.1)
    with PolicyServer(act, obs, key, port=8000) as server:
        server.wait()
    ```

    A dict observation is the message itself. Any other goes in its entry `obs`, and a pair
    `(state, goal)` in its entries `state` and `goal`. With an integer `seed` in the message, the
    action is drawn with `jax.random.key(seed)`.

    The server has no passwords: anyone who can reach it can use it. Connections from web pages are
    refused. It listens only on this machine unless you give another `host`, which belongs behind a
    firewall or a tunnel. Messages are data; nothing in them is executed.
    """

    def __init__(
        self,
        act: Callable[[Obs, Key], Action],
        obs: Obs,
        key: Key,
        *,
        fallback: Callable[[Obs, Key], Action] | None = None,
        host: str = "127.0.0.1",
        port: int = 8000,
        metadata: dict[str, Any] | None = None,
        ignored: tuple[str, ...] = ("prompt",),
        largest_batch: int = 16,
        largest_frame: int = LARGEST_FRAME,
        most_clients: int = 100,
    ):
        """**Arguments:**

        - `act`: from an observation and a key to an action; compiled for batches of up to
          `largest_batch` before the server listens.
        - `obs`: an observation like those to come.
        - `key`: of the actions of messages without a `seed`.
        - `fallback`: used if an action of `act` is not finite, such as the plain flow. The reply
          then has `"fallback": True`, and `server.fallbacks` counts. Without one, or if it is
          not finite either, the client gets an error text.
        - `host`, `port`: where it listens; port 0 is any that is free, see `server.port`.
        - `metadata`: what clients are told; numbers, texts, arrays and containers of them.
        - `ignored`: entries of a message that the policy does not use.
        - `largest_batch`: requests that are drawn at once, at most.
        - `largest_frame`: bytes of a message, at most; a client that sends more is disconnected.
        - `most_clients`: connections at a time, at most.

        **Raises:** `ImportError` without websockets and msgpack (`pip install 'qgf_eqx[serve]'`);
        `OSError` if the port is taken.
        """
        check_key(key)
        self._largest = check_count("largest_batch", largest_batch, "it counts requests")
        self._most = check_count("most_clients", most_clients, "it counts connections")
        if not isinstance(port, int):
            raise TypeError(f"`port` must be an int, got {port!r}.")
        if not 0 <= port < 2**16:
            raise ValueError(f"`port` must be from 0 to 65535, got {port}.")
        listening = _bound(host, port)  # refused now, and not after compiling
        raw = not jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
        self._key = jax.random.wrap_key_data(key) if raw else key
        self._seeded = partial(jax.random.key, impl=jax.random.key_impl(self._key))
        self._expected, self._ignored = Expected(obs), ignored
        self._greeting = pack(metadata or {})
        self._draw = jax.jit(jax.vmap(act))
        self._fallback = None if fallback is None else jax.jit(jax.vmap(fallback))
        self.fallbacks = 0
        self._asked: queue.SimpleQueue[tuple[Obs, Key, Future] | None] = queue.SimpleQueue()
        self._lock, self._clients, self._count = threading.Lock(), 0, 0
        try:
            self._warm(self._expected(obs))
        except BaseException:
            listening.close()
            raise
        listening.listen()  # a client that comes earlier is refused, and tries again
        options = {"max_size": largest_frame, "compression": None, "logger": log}
        options |= {"sock": listening, "process_request": self._health}
        # A browser names the page that connects, a robot names none.
        self._server = listen(self._client, origins=[None], **options)
        self.port = self._server.socket.getsockname()[1]
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._server.serve_forever, self._batches)
        ]

    def _warm(self, obs: Obs) -> None:
        """Compiles what a request needs: the keys, and batches of every size."""
        keys, size = (jax.random.fold_in(self._key, 0), self._seeded(0)), 1
        while True:
            draws = filter(None, (self._draw, self._fallback))
            shapes = [self._drawn(draw, [(obs, keys[0])] * size)[0].shape for draw in draws]
            if shapes[0] != shapes[-1]:
                raise ValueError(f"`fallback` makes {shapes[-1]}, and `act` {shapes[0]}.")
            if size == self._largest:
                break
            size = min(2 * size, self._largest)
        settle()

    def __enter__(self) -> "PolicyServer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def wait(self) -> None:
        """Until the server is closed, or interrupted."""
        while self._threads[0].is_alive():
            self._threads[0].join(0.2)

    def close(self) -> None:
        """Listens no longer."""
        if self._threads[0].ident is None:
            self.__enter__()  # `shutdown` waits for the end of what has begun
        self._server.shutdown()
        self._asked.put(None)

    def _health(self, connection: Any, request: Any) -> Any:
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._clients >= self._most:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    def _client(self, connection: Any) -> None:
        with self._lock:
            self._clients += 1
        try:
            connection.send(self._greeting)
            for frame in connection:
                connection.send(self._reply(frame))
        except ConnectionClosed:
            pass  # also in the middle of a call
        finally:
            with self._lock:
                self._clients -= 1

    def _reply(self, frame: bytes | str) -> bytes | str:
        began = time.perf_counter()
        try:
            obs, key = self._read(frame)
            waiting: Future = Future()
            self._asked.put((obs, key, waiting))
            action, guided = waiting.result()
        except (WireError, ValueError, TypeError) as error:
            return str(error)
        except Exception:
            log.exception("the policy failed")
            return "the policy failed on this observation; the server's log says more."
        timing = {"infer_ms": 1000 * (time.perf_counter() - began)}
        told = {} if guided else {"fallback": True}
        return pack({"actions": action, "server_timing": timing, **told})

    def _read(self, frame: bytes | str) -> tuple[Obs, Key]:
        if isinstance(frame, str):
            raise WireError("the message is a text: send bytes, packed by msgpack.")
        message = unpack(frame)
        if not isinstance(message, dict):
            raise WireError(f"the message must be a dict, got {type(message).__name__}.")
        message = {k: v for k, v in message.items() if k not in self._ignored}
        seed = message.pop("seed", None)
        if seed is None:
            with self._lock:
                self._count += 1
                key = jax.random.fold_in(self._key, self._count)
        elif isinstance(seed, int | np.integer) and 0 <= seed < 2**32:
            key = self._seeded(int(seed))
        else:
            raise WireError(f"`seed` must be an integer of 32 bits, got {seed!r}.")
        return self._expected(self._obs_of(message)), key

    def _obs_of(self, message: dict) -> Obs:
        if isinstance(self._expected.example, dict):
            return message
        pair = isinstance(self._expected.example, tuple) and len(self._expected.example) == 2
        names = ("state", "goal") if pair else ("obs",)
        if set(message) != set(names):
            wanted, found = (", ".join(map(str, x)) for x in (names, message))
            raise WireError(f"the message must have {wanted}, got {found}.")
        return tuple(message[name] for name in names) if pair else message["obs"]

    def _batches(self) -> None:
        """Draws what waits, as long as the server is open."""
        while batch := self._waiting():
            try:
                drawn = self._sound([(obs, key) for obs, key, _ in batch])
            except Exception as error:
                failed = RuntimeError("the policy failed")
                failed.__cause__ = error  # whose traceback goes to the log, and not to the client
                for *_, waiting in batch:
                    waiting.set_exception(failed)
                continue
            for (*_, waiting), (action, guided) in zip(batch, drawn, strict=True):
                if np.isfinite(action).all():
                    waiting.set_result((action, guided))
                else:
                    error = ValueError("the policy gave an action that is not finite.")
                    waiting.set_exception(error)

    def _waiting(self) -> list[tuple[Obs, Key, Future]]:
        """What waits, one request at least; nothing, once the server is closed."""
        found = [self._asked.get()]
        while len(found) < self._largest and not self._asked.empty():
            found.append(self._asked.get())
        if None in found:
            for request in found:
                if request is not None:
                    request[2].set_exception(ValueError("the server is closing."))
            return []
        return found  # type: ignore[return-value]

    def _sound(self, asked: list[tuple[Obs, Key]]) -> list[tuple[np.ndarray, bool]]:
        """The actions of a batch, those of the fallback where they are not finite; and whether they
        are `act`'s."""
        found = [(action, True) for action in self._drawn(self._draw, asked)]
        broken = [i for i, (action, _) in enumerate(found) if not np.isfinite(action).all()]
        if broken and self._fallback is not None:
            plain = self._drawn(self._fallback, [asked[i] for i in broken])
            for i, action in zip(broken, plain, strict=True):
                found[i] = action, False
            self.fallbacks += len(broken)
            log.warning("%d actions were not finite: the fallback was drawn instead", len(broken))
        return found

    def _drawn(self, draw: Callable, asked: list[tuple[Obs, Key]]) -> list[np.ndarray]:
        """The actions of a batch, filled up to a power of two, so that few sizes are compiled."""
        size = min(1 << (len(asked) - 1).bit_length(), self._largest)
        rows = asked + [asked[0]] * (size - len(asked))
        obs = jax.tree.map(lambda *leaves: np.stack(leaves), *(obs for obs, _ in rows))
        keys = jax.numpy.stack([key for _, key in rows])
        return list(np.asarray(draw(obs, keys)))[: len(asked)]

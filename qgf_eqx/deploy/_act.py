"""A control loop: an action at every tick, in time, finite and within bounds."""

import inspect
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import numpy as np

from .._checks import check_count, check_finite_weight, check_key
from .._fields import Bounded
from .._sample import sample
from .._types import Action, Critic, Key, Obs, Policy
from ..steering import prefix_mask
from ._collector import settle
from ._draws import Drawn, make_draws
from ._observation import Expected
from ._statistics import Counts, Statistics


def _unchanged(action: Action) -> Action:
    return action


class ControlLoop:
    """Calls a guided policy of chunks once a tick: `action = loop(obs)`, a row of a chunk.

    A chunk is executed for `execution_horizon` rows; then the next one starts from the newest
    observation. With `ahead`, a thread draws it while the old one is executed, so no tick waits.
    Its first rows continue the old chunk (`steering.Inpainted`, real-time chunking), one per
    tick that recent draws took. When it arrives, execution switches to it at the row that is due.

    With a `deadline`, a tick without a row to execute waits at most that long. Then it takes a
    plain-flow chunk if one is ready, and otherwise `hold`. With `ahead`, the plain draw starts at
    the last row if the guided chunk is late, and may itself arrive some ticks late. After it, the
    next guided draw starts as soon as the thread is free.

    If the guided chunk, or `to_action` of it, is not finite, a plain-flow chunk replaces it. The
    same happens, with a `RuntimeWarning`, if a draw raises an error, such as a PyTorch critic that
    is out of memory; in the first tick the error is raised. `loop.statistics` counts all of it.
    Making a loop freezes Python's garbage collector (`gc.freeze`), whose full collection would
    stop a tick for 90 ms.

    ```python
    with ControlLoop(policy, critic, obs, key, weight=0.1, ahead=True, deadline=0.015) as loop:
        while True:
            robot.send(loop(robot.observe()))
    ```

    Source of real-time chunking: Black et al., *Real-Time Execution of Action Chunking Flow
    Policies*, 2025.
    """

    def __init__(
        self,
        policy: Policy,
        critic: Critic,
        obs: Obs,
        key: Key,
        *,
        execution_horizon: int | None = None,
        ahead: bool = False,
        deadline: float | None = None,
        hold: Callable[[np.ndarray], np.ndarray] = np.copy,
        to_action: Callable[[Action], Action] = _unchanged,
        **options: Any,
    ):
        """**Arguments:**

        - `policy`, `critic`: as for `sample`; an action is a chunk, with an axis of rows first.
          Bounds are the critic's (`bounded`); a dimension in which they are equal is locked.
        - `obs`: an observation like those to come. All programs are compiled with it, before the
          first tick.
        - `key`: of all actions.
        - `execution_horizon`: rows of a chunk that are executed before the next one is begun; by
          default all, or half of them with `ahead`.
        - `ahead`: draw the next chunk while this one is executed.
        - `deadline`: of a tick, in seconds; without one it waits for the guided chunk. The first
          tick always does. Waking up the thread may delay a tick further.
        - `hold`: makes the next action from the last one, if there is nothing else. By default it
          repeats it, which is right for positions; for velocities use `numpy.zeros_like`.
        - `to_action`: converts the policy's chunk to the robot's, row by row, such as its units.
          It is compiled.
        - `options`: of `sample`: `weight`, `guidance`, `steps`, `best_of`.

        **Raises:** `TypeError` or `ValueError` naming the argument; in a tick, if the observation
        is unlike the first one, not finite or overflows its dtype, or if neither guidance nor
        the plain flow gives a finite chunk and there is no last action to hold.
        """
        check_key(key)
        check_finite_weight(options.get("weight", 0.0))
        unknown = sorted(options.keys() - inspect.signature(sample).parameters.keys())
        if unknown:
            raise TypeError(f"`{unknown[0]}` is not an option of a control loop or `sample`.")
        if deadline is not None and not isinstance(deadline, float | int):
            raise TypeError(f"`deadline` must be a number of seconds, got {deadline!r}.")
        if deadline is not None and not 0 < deadline < float("inf"):
            raise ValueError(f"`deadline` must be a positive number of seconds, got {deadline}.")
        if not isinstance(critic, Bounded):
            warnings.warn(
                "`critic` has no bounds, so actions are not clipped: make it `bounded`.",
                RuntimeWarning,
                stacklevel=2,
            )
        self._expected, self._key, self._count = Expected(obs), key, 0
        self._draws = make_draws(policy, critic, options, to_action)
        self.ahead, self.deadline, self.hold = ahead, deadline, hold
        self._counts = Counts()
        self._threads = [ThreadPoolExecutor(1, name) for name in ("guided", "plain")]
        first, self._reserve = self._warm(self._expected(obs))
        self.horizon = len(first.own)
        if first.chunk.ndim < 1 or len(first.chunk) != self.horizon:
            raise ValueError(
                f"`to_action` makes {first.chunk.shape} of a chunk of shape {first.own.shape}: it "
                f"must keep all {self.horizon} rows."
            )
        _check_hold(hold, first.chunk[0])
        rows = self.horizon if not ahead else max(1, self.horizon // 2)
        wanted = rows if execution_horizon is None else execution_horizon
        self.execution_horizon = check_count("execution_horizon", wanted, "it counts rows")
        if self.execution_horizon > self.horizon:
            raise ValueError(
                f"`execution_horizon` is {wanted}, but a chunk has {self.horizon} rows."
            )
        self._running: list[Future | None] = [None, None]
        self.reset()
        settle()

    def reset(self) -> None:
        """Begins an episode: no chunk is left over from the last one. Statistics go on."""
        self._chunk: Drawn | None = None
        self._last: np.ndarray | None = None
        self._at = self._end = 0  # of the chunk's rows, the one that is due and the last one
        self._next: Future | None = None  # the chunk that is being drawn
        self._since = 0  # ticks since its observation
        self._spare: Future | None = None  # a plain chunk, for when that one is late
        self._spare_since = 0
        self._plain = False  # what is executed is such a chunk

    @property
    def statistics(self) -> Statistics:
        """Since the loop was made."""
        return self._counts.so_far()

    def __call__(self, obs: Obs) -> np.ndarray:
        """The action of this tick."""
        began = time.perf_counter()
        self._since += 1
        self._spare_since += 1
        try:
            obs = self._expected(obs)
        except Exception:
            self._at += 1  # the row that was due is not executed later
            raise
        self._receive()
        if self._rows_left() == 0:
            self._wait(obs, began)
        elif self.ahead:
            if self._next is None and (self._plain or self._at >= self.execution_horizon):
                self._begin(obs)
            is_late = self._is_busy(0) and self._since > 0
            if self.deadline and self._rows_left() == 1 and is_late:
                self._begin_spare(obs)
        action = self._action()
        self._counts.ticks += 1
        self._counts.tick_seconds.append(time.perf_counter() - began)
        return action

    def close(self) -> None:
        """Ends the threads; a draw that is running is not waited for. Python waits for it when the
        program ends, so a program whose policy hangs must be killed."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "ControlLoop":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _rows_left(self) -> int:
        if self._chunk is None:
            return 0
        return max(0, self._end - self._at)

    def _begin(self, obs: Obs) -> None:
        """Has the next chunk drawn from this observation, if the thread is free."""
        if self._is_busy(0):
            return
        draw = self._draws.guided, (obs, self._new_key())
        if self._chunk is not None and self._rows_left():
            left = self._rows_left()
            delay = min(max(self._counts.delays, default=1), left)
            old = np.zeros_like(self._chunk.own)
            old[:left] = self._chunk.own[self._at :]
            draw = self._draws.following, (*draw[1], old, _mask(old, delay, left))
        self._next, self._since = self._run(0, *draw), 0

    def _receive(self) -> None:
        """Changes to the next chunk, if it has been drawn."""
        if self._next is not None and self._next.done():
            draw, self._next = self._next, None
            found = self._result(draw)
            if self._since:  # or this tick has waited for it
                self._counts.delays.append(self._since)
            if self._take(found, self._since):
                self._spare, self._plain = None, False
        if self._rows_left() == 0 and self._spare is not None and self._spare.done():
            draw, self._spare = self._spare, None
            found = self._result(draw)
            if self._take(found, self._spare_since):
                self._next, self._plain = None, True
                self._counts.late += 1

    def _begin_spare(self, obs: Obs) -> None:
        """Has a plain chunk drawn from this observation, unless one is being drawn."""
        if self._spare is None and not self._is_busy(1):
            self._spare = self._run(1, self._draws.plain, (obs, self._new_key()))
            self._spare_since = 0

    def _wait(self, obs: Obs, began: float) -> None:
        """Takes what can be had until the deadline: a guided chunk, one of the plain flow, or
        nothing."""
        if self._next is None:
            self._begin(obs)
        if self.deadline is None or self._last is None:
            if self._next is None:  # an abandoned draw of an earlier episode is still running
                wait(filter(None, self._running[:1]))
                return self._wait(obs, began)
            wait([self._next])
            if not _gave(self._next) and self._last is not None:
                self._begin_spare(obs)
                wait(filter(None, [self._spare]))
            return self._receive()
        guided, end = [] if self._next is None else [self._next], began + self.deadline
        if self.ahead:  # without, every chunk is waited for, and most are in time
            self._begin_spare(obs)
        if self._spare is None:
            wait(guided, _until(end - self._reserve))
        if not (guided and _gave(guided[0])):
            self._begin_spare(obs)
            wait(guided, _until(end))
            if not guided or (guided[0].done() and not _gave(guided[0])):  # none is to come
                wait(filter(None, [self._spare]), _until(end))
            self._counts.missed += not (guided and guided[0].done())
        self._receive()

    def _result(self, draw: Future) -> Drawn | None:
        """What was drawn, or nothing if that raised; an error, if there is no action to hold."""
        error = draw.exception()
        if error is None:
            return draw.result()
        if self._last is None:
            raise error
        self._counts.raised += 1
        if self._counts.raised == 1:
            *_, last = [type(error).__name__, *str(error).strip().splitlines()]  # after a traceback
            warnings.warn(
                f"a draw raised an error: {last}. `statistics.raised` counts those to come.",
                RuntimeWarning,
                stacklevel=4,
            )
        return None

    def _take(self, found: Drawn | None, row: int) -> bool:
        """Changes to a chunk at a row, if there is one that has that row and is finite."""
        if found is None:
            return False
        self._counts.chunks += 1
        self._counts.chunk_seconds.append(found.seconds)
        self._counts.clipped += found.clipped
        self._counts.unguided += not found.guided
        if found.finite and row < self.horizon:
            self._chunk, self._at = found, row
            wanted = self.horizon if self.ahead else self.execution_horizon
            self._end = min(self.horizon, row + wanted)
            return True
        return False

    def _action(self) -> np.ndarray:
        if self._rows_left():
            assert self._chunk is not None
            action = self._chunk.chunk[self._at]
            self._at += 1
        elif self._last is not None:
            self._counts.held += 1
            action = np.asarray(self.hold(self._last))
            if not np.isfinite(action).all():
                raise ValueError("`hold` gave an action that is not finite: refusing to act.")
        else:
            raise ValueError("`policy` gave an action that is not finite: refusing to act.")
        self._last = action
        return action

    def _new_key(self) -> Key:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)

    def _is_busy(self, thread: int) -> bool:
        running = self._running[thread]
        return running is not None and not running.done()

    def _run(self, thread: int, draw: Callable, inputs: tuple) -> Future:
        self._running[thread] = found = self._threads[thread].submit(draw, *inputs)
        return found

    def _warm(self, obs: Obs) -> tuple[Drawn, float]:
        """A chunk, and how long one of the plain flow takes; all programs are compiled, that of
        the keys too, in the threads that run them: JAX's contexts, such as `jax.default_device`,
        are those of a thread."""
        guided, plain = self._threads
        key = jax.random.fold_in(self._key, 0)
        first = guided.submit(self._draws.guided, obs, key).result()
        if first.own.ndim < 2:
            raise ValueError(
                f"`policy` gives actions of shape {first.own.shape}; a control loop plays chunks, "
                "with an axis of rows first. For single actions use `jit_sampler`, or a policy of "
                f"shape {(1, *first.own.shape)}."
            )
        if self.ahead:
            old = np.zeros_like(first.own)
            mask = _mask(old, 0, len(old))
            guided.submit(self._draws.following, obs, self._key, old, mask).result()
        draws = [plain.submit(self._draws.plain, obs, self._key) for _ in range(6)]
        times = [draw.result().seconds for draw in draws]
        return first, 1.5 * max(times[1:])


def _mask(chunk: np.ndarray, delay: int, left: int) -> np.ndarray:
    """Where an old chunk of which some rows are left holds the next one."""
    rows = prefix_mask(len(chunk), delay, len(chunk) - left)
    return np.asarray(rows, chunk.dtype).reshape(-1, *[1] * (chunk.ndim - 1))


def _gave(draw: Future) -> bool:
    """Whether a draw has ended, and not with an error."""
    return draw.done() and draw.exception() is None


def _check_hold(hold: Callable, action: np.ndarray) -> None:
    if not callable(hold):
        raise TypeError(f"`hold` must be a function of the last action, got {hold!r}.")
    held = np.shape(hold(action))
    if held != action.shape:
        raise ValueError(f"`hold` makes {held} of an action of shape {action.shape}.")


def _until(end: float) -> float:
    return max(0.0, end - time.perf_counter())

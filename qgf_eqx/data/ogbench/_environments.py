"""OGBench environments: made quietly, and leaving nothing behind."""

import importlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gymnasium

from ..._named import similar
from .._environment import PICTURE, headless
from .._error import DatasetError

_MAKING = threading.RLock()


def make_env(env_id: str, **options) -> gymnasium.Env:
    """`gymnasium.make(env_id, **options)` for an OGBench environment, without its warnings, its
    temporary files and its open descriptors.

    Without a display, MuJoCo renders with EGL, unless `MUJOCO_GL` says otherwise. The graphics
    library is not used until something is drawn, and `MUJOCO_GL` is not changed.
    """
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    with _MAKING, warnings.catch_warnings(), _temporary_files():
        warnings.simplefilter("ignore")
        _draw_without_display()
        return gymnasium.make(env_id, **options)


def make_pictured(env_id: str, **options: Any) -> gymnasium.Env:
    """`make_env`; if pictures are asked for, they have the size of a film's."""
    return make_env(env_id, **({**PICTURE, **options} if "render_mode" in options else options))


@contextmanager
def _temporary_files() -> Iterator[None]:
    """OGBench's mazes hand MuJoCo a temporary file, and leave it, and its descriptor, open: here
    they are gone once the environment is made."""
    from ogbench.locomaze import maze

    made: list[tuple[int, str]] = []

    def mkstemp(**options: Any) -> tuple[int, str]:
        made.append(tempfile.mkstemp(**options))
        return made[-1]

    before = maze.tempfile
    maze.tempfile = SimpleNamespace(mkstemp=mkstemp)
    try:
        yield
    finally:
        maze.tempfile = before
        for descriptor, path in made:
            os.close(descriptor)
            os.unlink(path)


def _draw_without_display() -> None:
    """MuJoCo settles how to draw when it is imported, on a window system if nothing is said.
    Without a display that cannot work: then it is settled when the first picture is drawn."""
    import mujoco

    if "DISPLAY" in os.environ or "MUJOCO_GL" in os.environ:
        return
    module = sys.modules[mujoco.Renderer.__module__].gl_context  # type: ignore[attr-defined]
    if getattr(module, "GLContext", _Later).__module__ == "mujoco.glfw":
        module.GLContext = _Later


class _Later:
    """The context of MuJoCo's renderer, of the library that is chosen by then."""

    def __new__(cls, *size: int) -> Any:
        import mujoco

        module = sys.modules[mujoco.Renderer.__module__].gl_context  # type: ignore[attr-defined]
        with headless():
            return importlib.reload(module).GLContext(*size)


def check_env(env_id: str) -> None:
    """**Raises:** `DatasetError` if OGBench has no environment of that name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ogbench  # noqa: F401 (registers the environments)

        try:
            gymnasium.spec(env_id)
        except gymnasium.error.Error:
            guess = similar(env_id, gymnasium.registry)
            raise DatasetError(
                f"OGBench has no environment `{env_id}`{'; ' + guess if guess else '.'}"
            ) from None

"""What any environment needs: seeds for every source of randomness, and a way to draw without a
display."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

PICTURE = {"width": 320, "height": 240}
"""Of a film of OGBench's tasks."""


@contextmanager
def headless() -> Iterator[None]:
    """`MUJOCO_GL` is `egl` inside, where there is neither a display nor another choice."""
    chosen = "DISPLAY" in os.environ or "MUJOCO_GL" in os.environ
    if not chosen:
        os.environ["MUJOCO_GL"] = "egl"
    try:
        yield
    finally:
        if not chosen:
            del os.environ["MUJOCO_GL"]


def seed_everything(env: Any, *entropy: int) -> int:
    """Seeds NumPy's global generator and the action space; returns a seed for `env.reset`.

    OGBench's mazes and oracles draw from the global generator, its other environments from
    their own.
    """
    words = np.random.SeedSequence(entropy).generate_state(3)
    np.random.seed(words[0])  # noqa: NPY002
    env.action_space.seed(int(words[1]))
    return int(words[2])

"""Roll-outs to look at: methods side by side, on the same episodes, as an animated WebP."""

import os
from collections.abc import Sequence
from pathlib import Path

import gymnasium
import numpy as np
from tqdm import tqdm

try:
    from PIL import Image, ImageDraw
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.film needs Pillow ({error}): pip install 'qgf_eqx[plot]'"
    ) from error

from .datasets import env_id, make_env
from .evaluate import Method, make_act, rollout, target_critic
from .train import load_nets

SIZE = {"width": 320, "height": 240}
_GREEN, _GREY = (60, 180, 75), (110, 110, 110)


class RenderError(RuntimeError):
    """This machine cannot draw the environment, or the environment broke."""


class _Filmed(gymnasium.Wrapper):
    """Keeps a picture of every `stride`-th state, and of the last."""

    def __init__(self, env: gymnasium.Env, stride: int):
        super().__init__(env)
        self.stride, self.count = stride, 0
        self.frames: list[np.ndarray] = []

    def reset(self, **options):
        found = super().reset(**options)
        self.frames, self.count = [self._picture()], 0
        return found

    def step(self, action):
        found = super().step(action)
        self.count += 1
        if self.count % self.stride == 0 or found[2] or found[3]:
            self.frames.append(self._picture())
        return found

    def _picture(self) -> np.ndarray:
        return np.asarray(self.env.render())


def film(
    run_dir: str | Path,
    methods: Sequence[Method],
    numbers: Sequence[int],
    path: str | Path,
    *,
    seed: int = 0,
    stride: int | None = None,
    fps: int = 8,
    progress: bool = True,
) -> list[list[bool]]:
    """Films a run's episodes: a column for every episode, a row for every method.

    All methods begin an episode in the same state with the same noise; they are the episodes that
    `evaluate` numbers. A panel stops at its episode's end, framed in green if it succeeded.

    **Arguments:**

    - `run_dir`: the folder of a training run.
    - `methods`: the rows.
    - `numbers`: of the episodes.
    - `path`: of the film, `.webp` or `.gif`.
    - `seed`: of environments and noise, as for `evaluate`.
    - `stride`: environment steps from picture to picture; by default at most 70 pictures.
    - `fps`: pictures per second.
    - `progress`: show a progress bar.

    **Returns:** for every method and episode, whether it succeeded.

    **Raises:** `ValueError` if there is nothing to film, or `path` has another ending;
    `RenderError` if this machine cannot render. Without a display MuJoCo renders by EGL, unless
    `MUJOCO_GL` says otherwise.
    """
    path = Path(path)
    if not methods or not numbers or fps < 1 or (stride is not None and stride < 1):
        raise ValueError("`methods`, `numbers`, `stride` and `fps` must not be empty or zero.")
    if path.suffix not in (".webp", ".gif"):
        raise ValueError(f"`path` must end in .webp or .gif, got {path.name}.")
    nets, config = load_nets(run_dir)
    longest = gymnasium.spec(env_id(config.env)).max_episode_steps or 1000
    env = _Filmed(_rendering(config.env), stride or -(-longest // 70))
    rows, successes = [], []
    bar = tqdm(
        total=len(methods) * len(numbers),
        desc="film",
        unit=" episodes",
        disable=None if progress else True,
    )
    with bar:
        for method in methods:
            critic = target_critic(nets, method.reduce)
            act = make_act(nets.policy, critic, method, seed=seed)
            panels, reached = [], []
            for number in numbers:
                (episode,) = rollout([env], act, [number], seed=seed)
                if episode.error:
                    raise RenderError(f"episode {number} cannot be filmed: {episode.error}")
                caption = f"{method.name}: {'success' if episode.success else 'no success'}"
                panels.append(_captioned(env.frames, caption, episode.success))
                reached.append(episode.success)
                bar.update()
            rows.append(panels)
            successes.append(reached)
    env.close()
    length = max(len(panel) for panels in rows for panel in panels)
    pictures = [_tile(rows, i) for i in range(length)]
    path.parent.mkdir(parents=True, exist_ok=True)
    last = 2000  # the end is shown for two seconds
    times = [round(1000 / fps)] * (length - 1) + [last]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=50
    )
    return successes


def _rendering(name: str) -> gymnasium.Env:
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        env = make_env(env_id(name), render_mode="rgb_array", **SIZE)
        env.reset(seed=0)
        env.render()
    except Exception as error:  # whatever the graphics library of this machine raises
        raise RenderError(
            f"this machine cannot render ({type(error).__name__}: {error}); "
            "set MUJOCO_GL to egl, osmesa or glfw, whichever it has, before Python starts."
        ) from error
    return env


def _captioned(frames: Sequence[np.ndarray], caption: str, success: bool) -> list[Image.Image]:
    pictures = []
    for i, frame in enumerate(frames):
        ended = i == len(frames) - 1
        picture = Image.fromarray(frame)
        draw = ImageDraw.Draw(picture)
        if ended:
            edge = (0, 0, picture.width - 1, picture.height - 1)
            draw.rectangle(edge, outline=_GREEN if success else _GREY, width=6)
        text = caption if ended else caption.split(":")[0]
        box = draw.textbbox((10, 8), text, font_size=18)
        draw.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill=(0, 0, 0))
        draw.text((10, 8), text, fill=(255, 255, 255), font_size=18)
        pictures.append(picture)
    return pictures


def _tile(rows: list[list[list[Image.Image]]], i: int) -> Image.Image:
    """The `i`-th picture of every panel, or its last."""
    width, height = rows[0][0][0].size
    tiled = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for y, panels in enumerate(rows):
        for x, panel in enumerate(panels):
            tiled.paste(panel[min(i, len(panel) - 1)], (x * width, y * height))
    return tiled

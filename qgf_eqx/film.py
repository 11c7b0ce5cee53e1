"""Roll-outs to look at: methods side by side, on the same episodes, as an animated WebP."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

try:
    from PIL import Image, ImageDraw
except ImportError as error:
    raise ImportError(
        f"qgf_eqx.film needs Pillow ({error}): pip install 'qgf_eqx[plot]'"
    ) from error

from ._files import write_atomically
from ._progress import bar
from .data._environment import PICTURE as SIZE
from .data._environment import headless
from .evaluate import Episode, Sampler, Task, rollout, task_of
from .evaluate._rollout import action_bounds, goal_option
from .evaluate._sources import Run, checkpoint_sha256
from .evaluate.task import make_seed

_MOST_PIXELS = {".webp": 16383, ".gif": 65535}  # of a format, in width and in height
MOST = 70
"""Pictures of a panel."""
STRIP, LEAST_WIDTH = 28, 240
"""In pixels: of a panel's caption, and of its picture."""
_GREEN, _GREY = (60, 180, 75), (110, 110, 110)


class RenderError(RuntimeError):
    """This machine cannot draw the environment, or the environment broke."""


class _Filmed(gymnasium.Wrapper):
    """Keeps a picture of every `stride`-th state, and of the last; and of the goal, if the
    environment has goals and draws them. Without a stride it begins with 1, and doubles it whenever
    there are more than `MOST` pictures."""

    def __init__(self, env: gymnasium.Env, stride: int | None):
        super().__init__(env)
        self.grows, self.stride, self.count = stride is None, stride or 1, 0
        self.frames: list[tuple[int, np.ndarray]] = []
        self.goal: np.ndarray | None = None

    def reset(self, *, options: dict | None = None, **others):
        wanted = {**options, "render_goal": True} if options else options
        found = super().reset(options=wanted, **others)
        goal = found[1].get("goal_rendered") if options else None
        self.goal = None if goal is None else np.asarray(goal)
        self.frames, self.count = [(0, self._picture())], 0
        return found

    def step(self, action):
        found = super().step(action)
        self.count += 1
        if self.count % self.stride == 0 or found[2] or found[3]:
            self.frames.append((self.count, self._picture()))
        if self.grows and len(self.frames) > MOST:
            self.stride *= 2
            self.frames = _thinned(self.frames, self.stride)
        return found

    def _picture(self) -> np.ndarray:
        return np.asarray(self.env.render())


def _thinned(frames: list[tuple[int, np.ndarray]], stride: int) -> list[tuple[int, np.ndarray]]:
    """Those of every `stride`-th state, and the last."""
    return [frame for frame in frames if frame[0] % stride == 0 or frame is frames[-1]]


def film(
    run_dir: str | Path,
    methods: Sequence[Sampler],
    numbers: Sequence[int],
    path: str | Path,
    *,
    seed: int = 0,
    task: Task | str | None = None,
    stride: int | None = None,
    fps: int = 8,
    progress: bool = True,
) -> list[list[Episode]]:
    """Films a run's episodes: a column for every episode, a row for every method.

    All methods begin an episode in the same state with the same noise; they are the episodes that
    `evaluate` numbers. A panel stops at its episode's end, framed in green if it succeeded. For a
    task with goals, a panel shows the goal in its upper right corner if the environment draws it
    (`info["goal_rendered"]` of a `reset` with the option `render_goal`, as OGBench's do).

    **Arguments:**

    - `run_dir`: the folder of a training run.
    - `methods`: the rows.
    - `numbers`: of the episodes.
    - `path`: of the film, `.webp` or `.gif`.
    - `seed`: of environments and noise, as for `evaluate`.
    - `task`: a `Task`, or a name for `evaluate.task_of`; by default the run's own.
    - `stride`: environment steps from picture to picture; by default a power of two, for between 35
      and 70 pictures of the longest episode.
    - `fps`: pictures per second.
    - `progress`: show a progress bar.

    **Returns:** for every method its episodes.

    **Raises:** `ValueError` if there is nothing to film, or `path` has another ending;
    `RenderError` if this machine cannot render. Without a display MuJoCo renders by EGL, unless
    `MUJOCO_GL` says otherwise.
    """
    path = Path(path)
    if not methods:
        raise ValueError("`methods` is empty: name at least one, such as flow or qgf.")
    if not numbers or fps < 1 or (stride is not None and stride < 1):
        raise ValueError("`numbers`, `stride` and `fps` must not be empty or zero.")
    if path.suffix not in _MOST_PIXELS:
        raise ValueError(f"`path` must end in .webp or .gif, got {path.name}.")
    sides = ("numbers", numbers, SIZE["width"]), ("methods", methods, SIZE["height"] + STRIP)
    for name, panels, size in sides:
        most = _MOST_PIXELS[path.suffix] // size
        if len(panels) > most:
            raise ValueError(
                f"`{name}` has {len(panels)} panels side by side, {most} fit into a "
                f"{path.suffix}: film the others separately."
            )
    source = Run(str(run_dir), checkpoint_sha256(run_dir))
    nets, task = source.load(), source.task() if task is None else task
    task = task_of(task) if isinstance(task, str) else task
    films = _Films(task, seed, stride)
    count = len(methods) * len(numbers)
    shown = bar(count, "film", "episodes", show=progress)
    rows, played = [], []
    with closing(films), shown:
        for method in methods:
            act = nets.act_of(method, seed, *action_bounds(films.env(numbers[0]).action_space))
            panels, episodes = [], []
            for number in numbers:
                env = films.env(number)
                options = {"seed": seed, "outcome": task.outcome, "goals": task.goals}
                (episode,) = rollout([env], act, [number], **options)
                if episode.error:
                    raise RenderError(f"episode {number} cannot be filmed: {episode.error}")
                caption = f"{method.name}: {_said(task, episode)}"
                panels.append((env.frames, caption, episode.success, env.goal))
                episodes.append(episode)
                shown.update()
            rows.append(panels)
            played.append(episodes)
    pictures = [[_captioned(_thinned(p[0], films.stride), *p[1:]) for p in row] for row in rows]
    _save(pictures, path, fps)
    return played


def _save(rows: list[list[list[Image.Image]]], path: Path, fps: int) -> None:
    """Writes panels, a row for every method, as one film."""
    length = max(len(panel) for panels in rows for panel in panels)
    pictures = [_tile(rows, i) for i in range(length)]
    path.parent.mkdir(parents=True, exist_ok=True)
    last = 2000  # the end is shown for two seconds
    times = [round(1000 / fps)] * (length - 1) + [last]
    options = {"format": path.suffix[1:], "duration": times, "loop": 0, "quality": 50}
    with write_atomically(path) as file:
        target: Any = file
        pictures[0].save(target, save_all=True, append_images=pictures[1:], **options)


def _said(task: Task, episode: Episode) -> str:
    """How an episode ended."""
    if task.by_return:
        return f"return {episode.total_reward:.4g}"
    return "success" if episode.success else "no success"


class _Films:
    """The environment of a film, or one an episode if the task needs that."""

    def __init__(self, task: Task, seed: int, stride: int | None):
        self.task, self.seed, self._stride, self.made = task, seed, stride, {}

    def env(self, number: int) -> _Filmed:
        key = number if self.task.new_env_each_episode else None
        if key not in self.made:
            option = {"seed": make_seed(self.seed, number)} if key is not None else {}
            env = _rendering(self.task, **option)
            self.made[key] = _Filmed(env, self._stride)
        return self.made[key]

    @property
    def stride(self) -> int:
        """The largest of all panels."""
        return max(env.stride for env in self.made.values())

    def close(self) -> None:
        for env in self.made.values():
            env.close()


def _rendering(task: Task, **options: Any) -> gymnasium.Env:
    try:
        env = task.make_env(render_mode="rgb_array", **options)
        env.reset(seed=0, **goal_option(task.goals, 0))
        with headless():
            drawn = np.asarray(env.render())
        if drawn.ndim != 3 or drawn.dtype != np.uint8:
            raise RenderError(
                f"`render` of `{task.name}` must return a picture, an array of bytes (height, "
                f"width, 3), and returns {drawn.dtype} of shape {drawn.shape}."
            )
    except RenderError:
        raise
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        raise RenderError(
            f"`make_env` of `{task.name}` does not take `render_mode`, which a film needs: pass it "
            "on to your environment, whose `render` then returns a picture."
        ) from None
    except Exception as error:  # whatever the graphics library of this machine raises
        raise RenderError(
            f"this machine cannot render ({type(error).__name__}: {error}); "
            "set MUJOCO_GL to egl, osmesa or glfw, whichever it has, before Python starts."
        ) from error
    return env


def _captioned(
    frames: Sequence[tuple[int, np.ndarray]],
    caption: str,
    success: bool,
    goal: np.ndarray | None = None,
) -> list[Image.Image]:
    """The pictures, each below a strip that says what is shown and, in the last one, how it ended;
    small ones enlarged, so that there is room for it."""
    pictures = []
    for i, (_, frame) in enumerate(frames):
        ended = i == len(frames) - 1
        picture = Image.fromarray(frame)
        times = -(-LEAST_WIDTH // picture.width)
        picture = picture.resize((times * picture.width, times * picture.height), 0)
        draw = ImageDraw.Draw(picture)
        if goal is not None:
            inset = Image.fromarray(goal).resize((picture.width // 3, picture.height // 3))
            at = picture.width - inset.width - 8, 8
            picture.paste(inset, at)
            draw.rectangle((at[0], at[1], at[0] + inset.width, 8 + inset.height), outline=_GREY)
            draw.text((at[0] + 6, 12), "goal", fill=(255, 255, 255), font_size=14)
        if ended:
            edge = (0, 0, picture.width - 1, picture.height - 1)
            draw.rectangle(edge, outline=_GREEN if success else _GREY, width=6)
        panel = Image.new("RGB", (picture.width, picture.height + STRIP))
        panel.paste(picture, (0, STRIP))
        text, size = caption if ended else caption.split(":")[0], 18
        draw = ImageDraw.Draw(panel)
        while size > 8 and draw.textlength(text, font_size=size) > panel.width - 12:
            size -= 1
        draw.text((6, STRIP // 2), text, fill=(255, 255, 255), font_size=size, anchor="lm")
        pictures.append(panel)
    return pictures


def _tile(rows: list[list[list[Image.Image]]], i: int) -> Image.Image:
    """The `i`-th picture of every panel, or its last."""
    width, height = rows[0][0][0].size
    tiled = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for y, panels in enumerate(rows):
        for x, panel in enumerate(panels):
            tiled.paste(panel[min(i, len(panel) - 1)], (x * width, y * height))
    return tiled

# %% [markdown]
# # Your own data and environment
#
# From a Gymnasium environment and recordings to a guided policy, in two commands. The observation
# is a dict in millimetres, actions are in [-2, 2], and an episode is scored by its return.
#
# The first cell writes `reach.py`; for your task, you write this file yourself. It contains the
# environment, the recordings as arrays, and a `Task` that names both. If your recordings are in a
# file, you do not need `record`: pass `--data FILE` instead ([formats](../formats.md)).

# %%
import subprocess
import sys
from pathlib import Path

Path("reach.py").write_text('''
"""A hand moves to a target; recordings, some of which go the wrong way first."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from qgf_eqx.data import from_episodes
from qgf_eqx.evaluate import Return, Task


class Reach(gymnasium.Env):
    """Millimetres, 25 a unit of action; a step costs the distance left, in metres."""

    action_space = Box(-2, 2, (2,))
    place = Box(-1e3, 1e3, (2,))
    observation_space = Dict({"hand": place, "target": place})

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hand, self.age = np.zeros(2), 0
        angle = self.np_random.uniform(0, 2 * np.pi)
        self.target = 500 * np.array([np.cos(angle), np.sin(angle)])
        return self.seen(), {}

    def step(self, action):
        self.hand, self.age = self.hand + 25 * action, self.age + 1
        distance = np.linalg.norm(self.target - self.hand) / 1000
        return self.seen(), -distance, False, self.age == 20, {}

    def seen(self):
        seen = {"hand": self.hand, "target": self.target}
        return {name: place.astype(np.float32) for name, place in seen.items()}

    def render(self):
        picture = np.full((120, 120, 3), 255, np.uint8)
        for place, colour in ((self.target, (60, 180, 75)), (self.hand, (67, 99, 216))):
            x, y = np.clip(60 + place / 10, 3, 116).astype(int)
            picture[y - 3 : y + 4, x - 3 : x + 4] = colour
        return picture


def record():
    env, rng, episodes = Reach(), np.random.default_rng(0), []
    for seed in range(300):
        seen, done, wrong = [env.reset(seed=seed)[0]], False, rng.uniform() < 0.5
        actions, rewards = [], []
        while not done:
            way = (seen[-1]["target"] - seen[-1]["hand"]) / 50
            turned = way[::-1] * [1, -1] if wrong and len(actions) < 10 else way
            action = np.clip(turned + rng.normal(0, 0.5, 2), -2, 2).astype(np.float32)
            obs, reward, _, done, _ = env.step(action)
            actions, rewards = [*actions, action], [*rewards, reward]
            seen = [*seen, obs]
        obs = {name: np.stack([s[name] for s in seen]) for name in seen[0]}
        episode = {"obs": obs, "actions": np.stack(actions), "rewards": rewards}
        episodes.append(episode | {"terminated": False})
    return from_episodes(episodes)


def make_task():
    return Task("reach", Reach, Return(), data=record)
''')


def run(command):
    """As you would type it."""
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], capture_output=True, text=True
    )
    print(done.stdout or done.stderr)
    done.check_returncode()


# %% [markdown]
# **Train** a flow and a critic, with three training seeds. The normalisers are fitted to the data
# and saved in the checkpoint, so callers pass observations in millimetres. In a shell, type
# `qgf-eqx train --env reach:make_task ...`.

# %%
train = (
    "qgf_eqx_cli train --env reach:make_task --seeds 0 1 2 --run-dir reach_runs --quiet"
)
train += (
    " --normalise-obs standardise --normalise-actions min-max --horizon 5 --gamma 0.9"
)
run(f"{train} --updates 3000 --batch 256 --width 64 --depth 2 --processes 1")

# %% [markdown]
# **Guide.** `evaluate` chooses the weight on 10 tuning episodes of each seed, in a grid around the
# [starting weight](../weights.md#where-to-start), and reports 50 others. Half of the recordings go
# the wrong way in their first half; the critic has learned to tell.

# %%
runs = " ".join(f"reach_runs/seed{seed}" for seed in range(3))
evaluate = f"qgf_eqx_cli evaluate {runs} --methods flow qgf best-of-4"
run(f"{evaluate} --tuning-episodes 10 --processes 1 --out reach_runs/results.json")

# %% [markdown]
# Both improve on the plain flow, and here the best of four draws gains more than QGF. Compare them
# on your task; `qgf-best-of-4` combines both.
#
# **Look.** Green is the target, blue the hand. Top: the plain flow. Bottom: QGF.

# %%
out = "film.webp"
film = "qgf_eqx_cli film reach_runs/seed0 --methods flow qgf --weight 1 --episodes 4"
run(f"{film} --out {out}")

# %% [markdown]
# **Use** the policy in your own program. It takes a real observation and returns a chunk of five
# real actions, to be executed one after the other.

# %%
sys.path.append(".")
import jax

from qgf_eqx.evaluate import load_policy, method, task_of

env = task_of("reach:make_task").make_env()
act = load_policy("reach_runs/seed0", method("qgf", weight=1.0))
chunk = act(env.reset(seed=1)[0], jax.random.key(0))
print(chunk.round(2))

# %% [markdown]
# ## Without an environment
#
# With recordings alone, train in Python. `env` is then only a name, and the bounds of actions are
# the range of the recorded ones. `load_policy`, `export` and `serve` take such a run with a weight
# that you give; `choose --budget` and `diagnose` take it with `--data FILE`, a file with such
# observations. What plays episodes (`evaluate`, `film`) needs a task.

# %%
from reach import record

from qgf_eqx.learn import TrainConfig, learners, train

nets = learners(width=64, depth=2)
units = {"normalise_obs": "standardise", "normalise_actions": "min-max"}
config = TrainConfig("my robot", updates=200, batch=256, gamma=0.9, **units, **nets)
train(config, record(), "robot_run", progress=False)
act = load_policy("robot_run", method("qgf", weight=0.3))
print(act(env.reset(seed=1)[0], jax.random.key(0)).round(2))

# %% [markdown]
# # Images
#
# A policy whose only observation is a camera image, on a task small enough to train on a CPU in
# about a minute. The observations are images: arrays of bytes with height, width and channels. You
# need not configure anything else: every network gets its own encoder
# ([`ImpalaEncoder`](../api/nn.md)).
#
# As in [the previous tutorial](own_data.md), the first cell writes a file that you would write
# yourself.

# %%
import subprocess
import sys
from pathlib import Path

Path("see.py").write_text('''
"""A hand moves to a target; a camera is all that the policy has."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from qgf_eqx.data import from_episodes
from qgf_eqx.evaluate import Return, Task


class See(gymnasium.Env):
    """8 x 8 pixels: the target is red, the hand blue. A step costs the distance."""

    action_space = Box(-1, 1, (2,))
    observation_space = Box(0, 255, (8, 8, 3), np.uint8)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.places, self.age = self.np_random.uniform(0, 8, (2, 2)), 0
        return self.seen(), {}

    def step(self, action):
        self.places[1] = np.clip(self.places[1] + action, 0, 8)
        self.age += 1
        return self.seen(), -self.distance(), False, self.age == 12, {}

    def distance(self):
        return float(np.linalg.norm(self.places[0] - self.places[1])) / 8

    def seen(self):
        pixels = np.stack(np.mgrid[:8, :8], axis=-1) + 0.5
        apart = [np.sum((pixels - place) ** 2, axis=-1) for place in self.places]
        near = [np.exp(-squares) for squares in apart]
        return np.uint8(255 * np.stack([near[0], 0 * near[0], near[1]], axis=-1))

    def render(self):
        return self.seen().repeat(16, axis=0).repeat(16, axis=1)


def record():
    """A controller that goes the wrong way in half of its episodes."""
    env, rng, episodes = See(), np.random.default_rng(0), []
    for seed in range(400):
        obs, wrong, done = [env.reset(seed=seed)[0]], rng.uniform() < 0.5, False
        actions, rewards = [], []
        while not done:
            turned = -1 if wrong and len(actions) < 5 else 1
            way = turned * (env.places[0] - env.places[1])
            action = np.clip(way / 2 + rng.normal(0, 0.3, 2), -1, 1).astype(np.float32)
            seen, reward, _, done, _ = env.step(action)
            actions, rewards, obs = [*actions, action], [*rewards, reward], [*obs, seen]
        arrays = {"obs": np.stack(obs), "actions": np.stack(actions)}
        arrays["rewards"] = rewards
        episodes.append(arrays | {"terminated": False})
    return from_episodes(episodes)


def make_task():
    return Task("see", See, Return(), data=record)
''')


def run(command):
    """As you would type it."""
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], capture_output=True, text=True
    )
    print(done.stdout or done.stderr)
    done.check_returncode()


# %% [markdown]
# **Train.** The encoder turns an image into `--features` numbers. `--crop` is the largest shift of
# an image in training, in pixels. The default is 3, as in OGBench; here it is 0, because one pixel
# is a large shift in an 8 x 8 image. Observations can also be a dict of images and numbers.

# %%
train = "qgf_eqx_cli train --env see:make_task --run-dir see_run --horizon 3 --gamma 0.9 --crop 0"
train += (
    " --updates 1000 --batch 64 --learning-rate 1e-3 --width 64 --depth 2 --features 32"
)
run(f"{train} --iql-critics 1 --iql-ema-rate 0.05 --quiet")

# %% [markdown]
# **Guide.** This is one training seed: the intervals are over its episodes, and another training
# run may give a different result.

# %%
evaluate = (
    "qgf_eqx_cli evaluate see_run --methods flow qgf best-of-4 --tuning-episodes 10"
)
run(f"{evaluate} --processes 1 --out see_run/results.json")

# %% [markdown]
# **What it costs.** A sampler encodes the image once per action, and not in every step: all ten
# steps and four candidates together call each encoder once.

# %%
import jax
import jax.numpy as jnp

import qgf_eqx
from qgf_eqx.flops import count
from qgf_eqx.learn import load_run

run = load_run("see_run")
picture = jnp.zeros((8, 8, 3), jnp.uint8)
draw = lambda n: (
    lambda obs, key: qgf_eqx.sample(run.policy, run.critic, obs, key, best_of=n)
)
encoder = count(run.value.net.encoder, picture)
print(
    f"encoder {encoder / 1e6:.2f} MFLOP, of which an action needs two:",
    "the policy's, the critic's",
)
for n in (1, 4):
    print(f"best of {n}: {count(draw(n), picture, jax.random.key(0)) / 1e6:.2f} MFLOP")

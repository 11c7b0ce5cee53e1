# %% [markdown]
# # Train and guide on pointmaze
#
# From scratch to a guided policy that crosses OGBench's medium maze: data, a flow, a critic, and
# one weight. `qgf-eqx demo` does this with more data and updates, chooses the weights on tuning
# episodes, and reports intervals ([how long it takes](../index.md#results-on-ogbench)).

# %%
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

import qgf_eqx
from qgf_eqx import data, plot
from qgf_eqx.evaluate.statistics import wilson
from qgf_eqx.learn import TrainConfig, learners, load_run, train

TASK = "pointmaze-medium-navigate-singletask-task1-v0"
DATA, RUN = Path("data/tutorial"), Path("runs/tutorial")

# %% [markdown]
# **Data.** OGBench's oracle walks to random goals. `collect` starts worker processes, which import
# the main script again, so a script should call it through the command line. Existing data are
# reused.

# %%
collect = ["collect", data.dataset_name(TASK), "--transitions", "200000"]
subprocess.run(
    [sys.executable, "-m", "qgf_eqx.cli", *collect, "--data-dir", str(DATA)], check=True
)
dataset = data.load(TASK, DATA)
print(f"{len(dataset.obs):,} transitions")

# %% [markdown]
# **Train** a flow to the behaviour, and a critic by implicit Q-learning, on chunks of five actions.
# The run is a folder; if you start it again, it resumes from its checkpoint.

# %%
sizes = learners(width=128, depth=3)
config = TrainConfig(TASK, updates=10_000, batch=256, gamma=0.99, **sizes)
train(config, dataset, RUN)

# %% [markdown]
# **Guide.** From here on you need a policy, a critic, and `sample`.

# %%
run = load_run(RUN)


@jax.jit
def act(obs, key, weight):
    return qgf_eqx.sample(run.policy, run.critic, obs, key, weight=weight)


def episode(env, number, weight):
    obs, _ = env.reset(seed=number)
    key, done, chunk, way = jax.random.key(number), False, [], []
    while not done:
        way.append(obs[:2])
        if len(chunk) == 0:
            key, now = jax.random.split(key)
            chunk = np.asarray(act(np.asarray(obs, np.float32), now, weight))
        obs, _, terminated, truncated, info = env.step(chunk[0])
        chunk, done = chunk[1:], terminated or truncated
    return bool(info["success"]), way


# %% [markdown]
# Twenty episodes for each weight, from the same states with the same noise.

# %%
env = data.make_env(data.env_id(TASK))
reached, ways = {}, {}
for weight, name in ((0.0, "flow"), (1.0, "qgf")):
    successes, ways[name] = zip(
        *(episode(env, number, weight) for number in range(20)), strict=True
    )
    reached[weight] = sum(successes)
    low, high = wilson(reached[weight], 20)
    print(
        f"weight {weight}: {reached[weight]} of 20 reach the goal",
        f"[{low:.0%}, {high:.0%}]",
    )

# %% [markdown]
# Their paths through the maze.

# %%
plot.maze_paths(env, ways, "maze.png")

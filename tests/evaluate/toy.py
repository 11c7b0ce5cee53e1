"""A task of one's own: a point on a line, pushed to a seeded place; judged by its return."""

import gymnasium
import numpy as np

from qgf_eqx.data.goals import Hindsight
from qgf_eqx.evaluate import Goal, References, Return, Task


class Line(gymnasium.Env):
    """Observations are a dict; actions are in [-2, 2]; each step costs the distance that is left."""

    def __init__(self, render_mode=None, length=6):
        place = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.observation_space = gymnasium.spaces.Dict({"place": place, "goal": place})
        self.action_space = gymnasium.spaces.Box(-2, 2, (1,))
        self.render_mode, self.length = render_mode, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal, self.age = 0.0, float(self.np_random.uniform(3, 5)), 0
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place, self.age = self.place + float(action[0]), self.age + 1
        return self._seen(), -abs(self.goal - self.place), False, self.age == self.length, {}

    def render(self):
        return np.full((48, 64, 3), 20 * self.age, np.uint8)

    def _seen(self):
        return {"place": np.array([self.place]), "goal": np.array([self.goal])}


def near(obs):
    return abs(obs["goal"][0] - obs["place"][0]) < 0.5


def make_task():
    return Task("line", Line, Return(References(-24.0, 0.0)))


def make_goal_task():
    return Task("line-goal", Line, Goal(near))


class Array(gymnasium.ObservationWrapper):
    """The same with one array as observation, and actions in [-1, 1]."""

    def __init__(self, **options):
        super().__init__(
            gymnasium.wrappers.RescaleAction(Line(**options), np.float32(-1), np.float32(1))
        )
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def observation(self, observation):
        return np.concatenate([observation["place"], observation["goal"]]).astype(np.float32)


def recorded(env=None):
    """Twenty episodes of a controller that goes to the goal, and misses it somewhat."""
    import jax

    from qgf_eqx.data import from_transitions

    env, rng, rows = env or Array(), np.random.default_rng(0), []
    for seed in range(20):
        obs, done = env.reset(seed=seed)[0], False
        while not done:
            place, goal = (
                jax.tree.leaves(obs)[::-1] if isinstance(obs, dict) else (obs[:1], obs[1:])
            )
            push = np.clip((goal - place) / 2 + rng.normal(0, 0.3, 1), -1, 1)
            action = push.astype(np.float32)
            following, reward, terminated, done, _ = env.step(action)
            rows.append((obs, action, np.float32(reward), terminated, done, following))
            obs = following
    return from_transitions(
        *(jax.tree.map(lambda *x: np.stack(x), *f) for f in zip(*rows, strict=True))
    )


def recorded_as_dicts():
    return recorded(Line())


def make_dict_task():
    """Observations are a dict, actions in [-2, 2]."""
    return Task("line", Line, Return(References(-24.0, 0.0)), data=recorded_as_dicts)


def make_array_task():
    return Task("line", Array, Return(References(-24.0, 0.0)), data=recorded)


def make_array_goal_task():
    return Task("line-goal", Array, Goal(lambda obs: abs(obs[0] - obs[1]) < 0.5))


class Room(gymnasium.Env):
    """A point that goes to one of four corners. A state is its place and its age; a goal a place."""

    def __init__(self, render_mode=None):
        box = gymnasium.spaces.Box
        spaces = box(-np.inf, np.inf, (3,), np.float32), box(-1, 1, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Tuple(spaces)
        self.action_space = box(-1, 1, (2,), np.float32)
        self.begun = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        task = (options or {}).get("task_id", 1)
        self.begun.append(task)
        self.goal = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)][task - 1], np.float32) / 2
        self.place, self.age, self.task = self.np_random.uniform(-0.1, 0.1, 2), 0, task
        shown = (options or {}).get("render_goal")
        return self._seen(), {"goal_rendered": self._painted(50 * task)} if shown else {}

    def render(self):
        return self._painted(20 * self.age)

    def _painted(self, grey):
        return np.full((48, 64, 3), grey, np.uint8)

    def step(self, action):
        self.place, self.age = self.place + 0.2 * action, self.age + 1
        near = bool(np.linalg.norm(self.place - self.goal) < 0.3)
        return self._seen(), near - 1.0, near, self.age == 8, {"success": near}

    def _seen(self):
        return np.array([*self.place, self.age], np.float32), self.goal


def place_of(state):
    return state[:2]


def is_near(place, goal):
    import jax.numpy as jnp

    return jnp.linalg.norm(place - goal) < 0.3


def room_walks():
    from qgf_eqx.data import from_episodes

    env, rng, episodes = Room(), np.random.default_rng(0), []
    for seed in range(20):
        (state, _), _ = env.reset(seed=seed)
        states, actions = [state], rng.uniform(-1, 1, (8, 2)).astype(np.float32)
        states += [env.step(action)[0][0] for action in actions]
        nothing = np.zeros(8)
        parts = {"obs": np.stack(states), "actions": actions}
        episodes.append({**parts, "rewards": nothing, "terminated": nothing})
    return from_episodes(episodes)


class ToldRoom(Room):
    """It has to be told its goal."""

    def reset(self, *, options, **others):
        return super().reset(options={"task_id": options["task_id"], **options}, **others)


def make_room():
    return Task("room", ToldRoom, data=room_walks, goals=4, hindsight=Hindsight(place_of, is_near))

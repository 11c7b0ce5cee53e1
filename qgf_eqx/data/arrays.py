"""Datasets from arrays in memory: whole episodes, or transitions end to end."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ._dataset import CLOCK, Dataset, by_name, check_dataset, lost_clock
from ._error import DatasetError


def from_episodes(episodes: Sequence[Mapping[str, Any]]) -> Dataset:
    """The dataset of whole episodes.

    With N + 1 observations no transition is lost. With N, the state after the last action is
    unknown: if the task ended there, it is not needed, and the last observation stands in for it;
    if not, the last action and its reward cannot be used.

    **Arguments:**

    - `episodes`: each a mapping with `obs` (an array or a PyTree of arrays, N or N + 1 rows),
      `actions` and `rewards` (N rows), and `terminated`: N flags, or one for the last transition.

    **Raises:** `DatasetError` naming the episode, the field and the row, as `from_transitions`.
    """
    if not episodes:
        raise DatasetError("`episodes` is empty. Give it at least one episode.")
    parts = [_episode(f"episode {i}", episode) for i, episode in enumerate(episodes)]
    try:
        joined = jax.tree.map(lambda *fields: np.concatenate(fields), *parts)
    except ValueError as error:
        raise DatasetError(f"the episodes do not have the same fields or widths: {error}") from None
    return _assemble(*joined)


def from_transitions(
    obs: Any, actions: Any, rewards: Any, terminated: Any, truncated: Any, next_obs: Any = None
) -> Dataset:
    """The dataset of transitions end to end, in the order in which they were recorded.

    **Arguments:** one row per transition each.

    - `obs`, `next_obs`: arrays, or PyTrees of arrays. Without `next_obs`, the last transition of an
      episode that did not end the task cannot be used.
    - `actions`, `rewards`
    - `terminated`: 1 where the task ended, so that nothing is bootstrapped.
    - `truncated`: 1 where only the recording stopped. The last row always ends an episode.

    **Raises:** `DatasetError` if lengths differ, a number is not finite, an episode has a jump, a
    time column loses its precision in float32, or no chunk contains a reward or an end.
    """
    rows = len(np.asarray(actions))
    data = {"actions": actions, "rewards": rewards, "terminated": terminated}
    data = {name: np.asarray(field) for name, field in (data | {"truncated": truncated}).items()}
    obs = jax.tree.map(np.asarray, obs)
    for name, field in {**_names("obs", obs), **_names("next_obs", next_obs), **data}.items():
        _check_rows("the transitions", name, field, rows)
    ends = (data["terminated"] != 0) | (data["truncated"] != 0)
    ends[-1:] = True
    known = data["terminated"] != 0
    if next_obs is None:
        next_obs = obs
    else:
        known, next_obs = ends, jax.tree.map(np.asarray, next_obs)
        _check_joints(obs, next_obs, ends)
    paid, ended = data["rewards"], data["terminated"]
    return _assemble(obs, next_obs, data["actions"], paid, ended, ends, ends & known)


def describe(dataset: Dataset) -> str:
    """One sentence on how a dataset is read: episodes, transitions, and what follows their ends."""
    rows, ends = len(dataset.episode_end), np.asarray(dataset.episode_end) != 0
    used = ~ends
    if rows:
        used[-1] = False  # has no successor, marked or not
    solved = int(np.asarray(dataset.terminated)[used].sum())
    if not ends[:-1].any():
        marks = "no end inside is marked, so all rows are one episode"
    else:
        marks = f"{int(ends[:-1].sum()) + 1} episodes"
    reach = float(np.abs(np.asarray(dataset.actions)[used]).max(initial=0))
    wide = f" Actions reach {reach:g}: they want `normalise_actions`." if reach > 1 + 1e-5 else ""
    return (
        f"{rows:,} states, {int(used.sum()):,} transitions, {marks}; {solved:,} transitions ended "
        f"the task and are not bootstrapped, all other ends are cuts of the recording.{wide}"
    )


def _names(name: str, tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {f"{name}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}


def _episode(where: str, episode: Mapping[str, Any]) -> tuple:
    for field in ("obs", "actions", "rewards", "terminated"):
        if field not in episode:
            raise DatasetError(f"{where}: field `{field}` is missing; it has {sorted(episode)}.")
    obs = jax.tree.map(np.asarray, episode["obs"])
    actions, rewards = np.asarray(episode["actions"]), np.asarray(episode["rewards"])
    count = len(actions)
    if count == 0:
        raise DatasetError(f"{where} has no action. Leave it out.")
    terminated = np.asarray(episode["terminated"])
    if terminated.ndim == 0:
        terminated = np.where(np.arange(count) == count - 1, terminated, 0)
    _check_rows(where, "actions", actions, count)
    _check_rows(where, "rewards", rewards, count)
    _check_rows(where, "terminated", terminated, count)
    if early := np.flatnonzero(terminated[:-1]).tolist():
        raise DatasetError(
            f"{where}: `terminated` is 1 in row {early[0]}, but the episode goes on. Split "
            "it there."
        )
    leaves = _names("obs", obs)
    longer = {len(leaf) for leaf in leaves.values() if leaf.ndim} == {count + 1}
    for name, leaf in leaves.items():
        _check_rows(where, name, leaf, count + longer)
    final = [-1] if not longer else []
    following = jax.tree.map(lambda x: np.concatenate([x[1:], x[final]]), obs)
    ends = np.arange(count) == count - 1
    known = ends & (longer | (terminated != 0))
    return (
        jax.tree.map(lambda x: x[:count], obs),
        following,
        actions,
        rewards,
        terminated,
        ends,
        known,
    )


def _check_rows(where: str, name: str, field: np.ndarray, rows: int) -> None:
    if field.ndim == 0 or len(field) != rows:
        more = " or one more" if name.startswith("obs") and where != "the transitions" else ""
        raise DatasetError(
            f"{where}: field `{name}` has shape {field.shape}; it must have {rows} rows{more}, one "
            "per action."
        )
    if name in ("rewards", "terminated", "truncated") and field.ndim > 1:
        raise DatasetError(
            f"{where}: field `{name}` has shape {field.shape}; it must have a number for each row, "
            f"({rows},): flatten it, `{name}.reshape(-1)`."
        )
    if field.dtype.kind not in "fiub":
        raise DatasetError(f"{where}: field `{name}` holds {field.dtype} and not numbers.")
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(field.astype(np.float32)).reshape(rows, -1).all(axis=1))
    if len(bad):
        raise DatasetError(
            f"{where}: field `{name}` holds NaN or infinite numbers, first in row {bad[0]}. Leave "
            "that episode out."
        )
    if name in ("terminated", "truncated") and not np.isin(field, (0, 1)).all():
        raise DatasetError(f"{where}: field `{name}` holds numbers other than 0 and 1.")


def _check_joints(obs: Any, next_obs: Any, ends: np.ndarray) -> None:
    """Where no end is marked, the next row is the state that the transition led to."""
    here, there = _names("next_obs", next_obs), _names("obs", obs)
    if [n[8:] for n in here] != [n[3:] for n in there]:
        raise DatasetError(f"`next_obs` has {[*here]}, but `obs` has {[*there]}.")
    for (name, after), before in zip(here.items(), there.values(), strict=True):
        jumps = (after[:-1] != before[1:]).reshape(len(ends) - 1, -1).any(axis=1) & ~ends[:-1]
        if jumps.any():
            row = np.flatnonzero(jumps)[0]
            raise DatasetError(
                f"`{name}` of row {row} is not the `obs` of row {row + 1}, and no end is marked: "
                f"two episodes are joined ({jumps.sum()} such rows). Set `truncated` there (in "
                "D4RL's files `timeouts`)."
            )


def _assemble(obs, next_obs, actions, rewards, terminated, ends, known) -> Dataset:
    """One row per state: after a last transition whose successor is known, or not needed, that
    state gets a row of its own."""
    take = np.repeat(np.arange(len(ends)), 1 + known)
    added = np.append(take[1:] == take[:-1], False)
    added = np.append(False, added[:-1])  # the second of two

    def states(before, after):
        rows = before[take].astype(np.result_type(before, after), copy=False)
        rows[added] = after[take[added]]
        return rows

    states_of = jax.tree.map(states, obs, next_obs)
    episode_end = np.where(known[take], added, ends[take])
    _check_time(states_of)
    dataset = Dataset(
        obs=jax.tree.map(lambda x: x if x.dtype == np.uint8 else x.astype(np.float32), states_of),
        actions=actions[take].astype(np.float32),
        rewards=np.where(added, 0, rewards[take]).astype(np.float32),
        terminated=np.where(added, 0, terminated[take]).astype(np.float32),
        episode_end=episode_end.astype(np.float32),
    )
    check_dataset(dataset)
    return dataset


def check_seen(dataset: Dataset) -> None:
    """**Raises:** `DatasetError` if no chunk contains a nonzero reward, or an end. Warns if all
    rewards are the same and nothing ends, so that every action has the same value."""
    fields = by_name(dataset)
    unseen = np.asarray(fields["episode_end"]) != 0
    paid = (np.asarray(fields["rewards"]) != 0) | (np.asarray(fields["terminated"]) != 0)
    if (paid & ~unseen).any():
        seen = np.asarray(fields["rewards"])[~unseen]
        if seen.min() == seen.max() and not (np.asarray(fields["terminated"]) != 0).any():
            warnings.warn(
                f"all `rewards` are {seen[0]:g} and no transition is `terminated`: a critic learns "
                "nothing from them, since every action has the same value. Set `terminated` to 1 "
                "where the task ended, or collect data that reach the goal.",
                RuntimeWarning,
                stacklevel=3,
            )
        return
    if not paid.any():
        raise DatasetError(
            "all `rewards` are 0 and no transition is `terminated`: a critic has nothing to learn. "
            "Give the rewards of your task, or train on a task with goals."
        )
    rows = np.flatnonzero(paid & unseen)
    raise DatasetError(
        f"the only rewards are in the last rows of episodes (the first is row {rows[0]}), whose "
        "next states are not recorded, so no chunk can see them. Give N + 1 observations, "
        "`next_obs`, or `terminated` if the task ended there."
    )


def _check_time(obs: Any) -> None:
    for name, field in _names("obs", obs).items():
        if (column := lost_clock(field)) is not None:
            raise DatasetError(f"field `{name}`, column {column} {CLOCK}")

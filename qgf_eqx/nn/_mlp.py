"""Networks of numbers, with the paper's layout."""

from collections.abc import Callable
from math import prod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, lecun_normal, variance_scaling
from jaxtyping import Array, Float, Scalar

from .._checks import as_reals, as_shape, check_count, check_key
from .._types import Action, Key, Obs, Time
from ._time import low_frequency_time

_hidden_init = variance_scaling(1.0, "fan_avg", "uniform")


class VelocityMLP(eqx.Module):
    """A velocity field on actions: an MLP of `concat(obs, a_t, embed(t))`.

    Hidden layers are Linear, LayerNorm (not on the last), GELU; kernels
    variance-scaling(1, fan_avg, uniform), the head LeCun normal, biases 0. Any PyTree of
    arrays is an observation: its leaves are flattened and joined. With the defaults and
    `embed=paper_time` this is the paper's policy.
    """

    mlp: "_MLP"
    obs_size: int = eqx.field(static=True)
    action_shape: tuple[int, ...] = eqx.field(static=True)
    embed: Callable[[Time], Array] = eqx.field(static=True)

    def __init__(
        self,
        obs_size: int,
        action_shape: tuple[int, ...],
        *,
        width: int = 1024,
        depth: int = 4,
        embed: Callable[[Time], Array] = low_frequency_time,
        key: Key,
    ):
        """**Arguments:**

        - `obs_size`: how many numbers an observation holds; 0 if there is none.
        - `action_shape`: the shape of an action, say `(horizon, action_dim)`.
        - `width`, `depth`: of the hidden layers.
        - `embed`: the features of flow time.
        - `key`: for the initial parameters.
        """
        self.obs_size, self.action_shape = _size("obs_size", obs_size, 0), as_shape(action_shape)
        self.embed = embed
        action_size = prod(self.action_shape)
        time_size = jax.eval_shape(embed, jnp.zeros(())).size
        self.mlp = _MLP(
            self.obs_size + action_size + time_size,
            action_size,
            width,
            normed=[k < depth - 1 for k in range(_size("depth", depth))],
            head_init=lecun_normal(),
            key=key,
        )

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Action:
        """The velocity at `(obs, a_t, t)`."""
        return self.given(obs)(obs, a_t, t)

    def given(self, obs: Obs) -> "_Given":
        """The field at one observation, whose share of the first layer is computed already."""
        return _Given(self, self.mlp.given(_flatten(obs, self.obs_size, self.mlp.dtype)))

    def _answer(self, mlp: "_MLP", a_t: Action, t: Time) -> Action:
        a_t = _check_action(a_t, self.action_shape, self.mlp.dtype)
        time = self.embed(jnp.asarray(t, self.mlp.dtype)).astype(self.mlp.dtype)
        return mlp(jnp.concatenate([a_t.ravel(), time])).reshape(self.action_shape)


class CriticMLP(eqx.Module):
    """An action value `Q(obs, action)`: an MLP of `concat(obs, action)`, one scalar.

    LayerNorm on every hidden layer; otherwise as `VelocityMLP`.
    """

    mlp: "_MLP"
    obs_size: int = eqx.field(static=True)
    action_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        obs_size: int,
        action_shape: tuple[int, ...],
        *,
        width: int = 1024,
        depth: int = 4,
        key: Key,
    ):
        """Arguments as for `VelocityMLP`."""
        self.obs_size, self.action_shape = _size("obs_size", obs_size, 0), as_shape(action_shape)
        in_size, normed = self.obs_size + prod(self.action_shape), [True] * _size("depth", depth)
        self.mlp = _MLP(in_size, 1, width, normed=normed, key=key)

    def __call__(self, obs: Obs, action: Action) -> Scalar:
        """The value at `(obs, action)`."""
        return self.given(obs)(obs, action)

    def given(self, obs: Obs) -> "_Given":
        """The critic at one observation, whose share of the first layer is computed already."""
        return _Given(self, self.mlp.given(_flatten(obs, self.obs_size, self.mlp.dtype)))

    def _answer(self, mlp: "_MLP", action: Action) -> Scalar:
        return mlp(_check_action(action, self.action_shape, self.mlp.dtype).ravel())[0]


class TimedCriticMLP(eqx.Module):
    """A critic of points on the flow, `Q(obs, a_t, t)`, for `guidance.robust`: an MLP of
    `concat(obs, a_t, embed(t))`, one scalar. Otherwise as `CriticMLP`.
    """

    mlp: "_MLP"
    obs_size: int = eqx.field(static=True)
    action_shape: tuple[int, ...] = eqx.field(static=True)
    embed: Callable[[Time], Array] = eqx.field(static=True)

    def __init__(
        self,
        obs_size: int,
        action_shape: tuple[int, ...],
        *,
        width: int = 1024,
        depth: int = 4,
        embed: Callable[[Time], Array] = low_frequency_time,
        key: Key,
    ):
        """Arguments as for `VelocityMLP`."""
        self.obs_size, self.action_shape = _size("obs_size", obs_size, 0), as_shape(action_shape)
        self.embed = embed
        time_size = jax.eval_shape(embed, jnp.zeros(())).size
        in_size = self.obs_size + prod(self.action_shape) + time_size
        self.mlp = _MLP(in_size, 1, width, normed=[True] * _size("depth", depth), key=key)

    def __call__(self, obs: Obs, a_t: Action, t: Time) -> Scalar:
        """The value at `(obs, a_t, t)`."""
        return self.given(obs)(obs, a_t, t)

    def given(self, obs: Obs) -> "_Given":
        """The critic at one observation, whose share of the first layer is computed already."""
        return _Given(self, self.mlp.given(_flatten(obs, self.obs_size, self.mlp.dtype)))

    def _answer(self, mlp: "_MLP", a_t: Action, t: Time) -> Scalar:
        a_t = _check_action(a_t, self.action_shape, self.mlp.dtype)
        time = self.embed(jnp.asarray(t, self.mlp.dtype)).astype(self.mlp.dtype)
        return mlp(jnp.concatenate([a_t.ravel(), time]))[0]


class ValueMLP(eqx.Module):
    """A state value `V(obs)`: an MLP with LayerNorm on every hidden layer, one scalar."""

    mlp: "_MLP"
    obs_size: int = eqx.field(static=True)

    def __init__(self, obs_size: int, *, width: int = 1024, depth: int = 4, key: Key):
        """Arguments as for `VelocityMLP`."""
        self.obs_size = _size("obs_size", obs_size, 0)
        self.mlp = _MLP(self.obs_size, 1, width, normed=[True] * _size("depth", depth), key=key)

    def __call__(self, obs: Obs) -> Scalar:
        """The value at `obs`."""
        return self.mlp(_flatten(obs, self.obs_size, self.mlp.dtype))[0]


class Dense(eqx.Module):
    """`x @ kernel + bias`: what `eqx.nn.Linear` computes. That stores (out, in), and products of
    two to eight rows then take up to 1.5 times as long on some CPUs."""

    kernel: Float[Array, "in out"]
    bias: Float[Array, " out"]

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        return x @ self.kernel + self.bias


class _MLP(eqx.Module):
    layers: tuple[Dense, ...]
    norms: tuple[eqx.nn.LayerNorm | None, ...]
    head: Dense

    def __init__(
        self,
        in_size: int,
        out_size: int,
        width: int,
        *,
        normed: list[bool],
        head_init: Initializer = _hidden_init,
        key: Key,
    ):
        width = _size("width", width)
        if in_size < 1 or out_size < 1:
            raise ValueError(
                f"inputs ({in_size}) and outputs ({out_size}) of a network must be at least 1."
            )
        check_key(key)
        *keys, head_key = jax.random.split(key, len(normed) + 1)
        sizes = [in_size] + [width] * (len(normed) - 1)
        self.layers = tuple(
            _dense(size, width, _hidden_init, k) for size, k in zip(sizes, keys, strict=True)
        )
        self.norms = tuple(eqx.nn.LayerNorm(width, eps=1e-6) if n else None for n in normed)
        self.head = _dense(width, out_size, head_init, head_key)

    @property
    def dtype(self):
        return self.head.kernel.dtype

    def given(self, obs: Float[Array, " obs"]) -> "_MLP":
        """The network of the inputs after `obs`, which become a part of the first bias."""
        first = self.layers[0]
        at_obs = Dense(first.kernel[: obs.size], first.bias)
        rest = Dense(first.kernel[obs.size :], at_obs(obs))
        return eqx.tree_at(lambda m: m.layers[0], self, rest)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = layer(x)
            x = jax.nn.gelu(x if norm is None else _normalise(norm, x), approximate=True)
        return self.head(x)


class _Given(eqx.Module):
    """A network at one observation."""

    net: Any
    mlp: _MLP

    def __call__(self, obs: Obs, *point):
        return self.net._answer(self.mlp, *point)


def _normalise(norm: eqx.nn.LayerNorm, x: Float[Array, " width"]) -> Float[Array, " width"]:
    # What `norm(x)` computes. But XLA does not see that a forward pass through its `jnp.var` and
    # that inside its derivative are the same: `qgf_jacobian` would run the policy twice.
    centred = x - jnp.mean(x)
    scale = jax.lax.rsqrt(jnp.mean(centred * centred) + norm.eps)
    return centred * scale * norm.weight + norm.bias  # type: ignore[operator]


def _dense(in_size: int, out_size: int, init: Initializer, key: Key) -> Dense:
    kernel = init(key, (in_size, out_size), jnp.result_type(float))
    return Dense(kernel, jnp.zeros(out_size, kernel.dtype))


def _size(name: str, size: int, least: int = 1) -> int:
    return check_count(name, size, "it is a size of a network", least=least)


def _flatten(obs: Obs, size: int, dtype) -> Float[Array, " obs"]:
    leaves = [as_reals("obs", leaf) for leaf in jax.tree.leaves(obs)]
    found = sum(leaf.size for leaf in leaves)
    if found != size:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves) or "nothing"
        raise ValueError(
            f"`obs` holds {found} numbers (shapes: {shapes}), but the network was built for "
            f"{size}. If `obs` is a batch, wrap the call in `jax.vmap`."
        )
    return jnp.concatenate([leaf.ravel().astype(dtype) for leaf in leaves] or [jnp.zeros(0, dtype)])


def _check_action(action: Action, shape: tuple[int, ...], dtype) -> Action:
    if jnp.shape(action) != shape:
        raise ValueError(
            f"the action has shape {jnp.shape(action)}, but the network was built for {shape}. "
            "If it is a batch, wrap the call in `jax.vmap`."
        )
    return as_reals("action", action).astype(dtype)

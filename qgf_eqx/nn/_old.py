"""Networks as older checkpoints hold them: their layers are `eqx.nn.Linear`."""

from typing import Any

import equinox as eqx
import jax

from ._mlp import Dense


def with_linear(tree: Any) -> Any:
    """The tree with shapes of `eqx.nn.Linear` in place of each layer."""
    return jax.tree.map(_linear, tree, is_leaf=_is_dense)


def with_dense(like: Any, tree: Any) -> Any:
    """The tree with the layers of `like` again, where `with_linear(like)` has others."""
    back = lambda layer, old: Dense(old.weight.T, old.bias) if _is_dense(layer) else old  # noqa: E731
    return jax.tree.map(back, like, tree, is_leaf=_is_dense)


def _is_dense(part: Any) -> bool:
    return isinstance(part, Dense)


def _linear(layer: Any) -> Any:
    if not _is_dense(layer):
        return layer
    kernel = layer.kernel
    linear = eqx.filter_eval_shape(eqx.nn.Linear, *kernel.shape, key=jax.random.key(0))
    weight = jax.ShapeDtypeStruct(kernel.shape[::-1], kernel.dtype)
    return eqx.tree_at(lambda old: (old.weight, old.bias), linear, (weight, layer.bias))

"""What an argument must be: each function returns it in its final form, or raises an error that
names it and says what to do."""

import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ._types import Obs


def check_count(
    name: str, value: int, hint: str, *, least: int = 1, most: int | None = None
) -> int:
    """`value` as an int that is at least `least`, and at most `most`."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"`{name}` is traced; it must be a Python int, because {hint}. Keep it out of "
            "the jitted function's arguments, or mark it static."
        )
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be a Python int, got {value!r}.") from None
    if most is not None and not least <= count <= most:
        raise ValueError(f"`{name}` must be from {least} to {most:,}, got {count}.")
    if count < least:
        raise ValueError(f"`{name}` must be at least {least}, got {count}.")
    return count


def _numbers(x: Any) -> np.ndarray | None:
    """Concrete numbers as NumPy's float64; `None` for what is not numbers."""
    try:
        x = np.asarray(x)
        return None if x.dtype.kind in "OSUmMc" else x.astype(float)
    except (TypeError, ValueError):
        return None


def check_between(
    name: str, value: Any, low: float | int, high: float | int, *, open: bool = False
) -> None:
    """Refuses what is not one number, or is outside of `[low, high]`, or of `(low, high)` if
    `open`; if traced, only the former."""
    if np.shape(value) != ():
        raise ValueError(f"`{name}` must be one number, got an array of shape {np.shape(value)}.")
    if isinstance(value, Tracer):
        return
    x = _numbers(value)
    if x is None:
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    if not np.all((low < x) & (x < high) if open else (low <= x) & (x <= high)):
        interval = f"({low:g}, {high:g})" if open else f"[{low:g}, {high:g}]"
        raise ValueError(f"`{name}` must be in {interval}, got {value}.")


def as_shape(shape: Any) -> tuple[int, ...]:
    """An action's shape as a tuple of ints."""
    try:
        sizes = tuple(map(operator.index, shape))
    except TypeError:
        raise TypeError(
            f"`action_shape` must be a tuple of integers, got {shape!r}: `(2,)` for an action of "
            "two dimensions, `(5, 2)` for a chunk of five, `()` for a number."
        ) from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"`action_shape` must not hold a negative size, got {sizes}.")
    return sizes


def known_shape(policy: Any) -> Any:
    """The `action_shape` of a policy; `None` if it has none, or is a field around one of no shape,
    as `Guided` is at one observation."""
    try:
        return getattr(policy, "action_shape", None)
    except TypeError:  # of `shape_of_action`, for the policy inside
        return None


def shape_of_action(policy: Any, critic: Any = None, caller: str = "sample") -> tuple[int, ...]:
    """The `action_shape` of a policy, which is needed to draw noise."""
    shape = getattr(policy, "action_shape", None)
    if shape is None:
        swapped = (
            " `critic` has one: are the first two arguments swapped?"
            if hasattr(critic, "action_shape")
            else ""
        )
        raise TypeError(
            f"`policy` has no `action_shape`, so `{caller}` cannot draw noise for it. Wrap it: "
            f"`qgf_eqx.Flow(policy, action_shape=(...))`.{swapped}"
        )
    return as_shape(shape)


def as_floats(name: str, x: Any) -> Array:
    """An array of real floats. Integers are refused, since what is added to them would be rounded;
    complex numbers, since their imaginary part would be lost."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(
            f"`{name}` must be an array of floats, got {x!r}: `jax.random.normal(key, shape)`."
        ) from None
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` must be an array of floats, got {x.dtype}: convert it, "
            f"`jnp.asarray({name}, float)`."
        )
    return x


def as_reals(name: str, x: Any) -> Array:
    """An array of real numbers, integers among them."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be an array of numbers, got {x!r}.") from None
    if not _is_real(x.dtype):
        raise ValueError(f"`{name}` must be real numbers, got {x.dtype}.")
    return x


def as_rows(name: str, x: Any) -> Array:
    """An array of real numbers with at least one row."""
    x = as_reals(name, x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(
            f"`{name}` must have at least one row along its first axis, got shape {x.shape}."
        )
    return x


def as_factor(name: str, x: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """A number as a scalar, or an array broadcast to `shape`; of `dtype`."""
    x = as_reals(name, x)
    check_broadcasts(name, x.shape, shape)
    return jnp.broadcast_to(x, shape).astype(dtype) if x.ndim else x.astype(dtype)


def as_number(name: str, x: Any, dtype: Any) -> float | Array:
    """One number: a Python number as it is, so that it stays known when the program is built; else
    a scalar of `dtype`."""
    if isinstance(x, int | float):
        return float(x)
    x = as_reals(name, x)
    if x.shape != ():
        raise ValueError(
            f"`{name}` must be one number, got an array of shape {x.shape}; for one per row of a "
            "batch, `jax.vmap` over it."
        )
    return x.astype(dtype)


def batch_size(name: str, batch: Any) -> int:
    """How many rows the leaves of a batch have along their first axis."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"`{name}` must be a batch, with as many rows along the first axis of every leaf, at "
            f"least one; its leaves have the shapes {shapes}."
        )
    return sizes.pop()


def as_answer(name: str, x: Any, said: str = "returned") -> Array:
    """What a policy, a critic or an estimator returned, as one array of real numbers."""
    if not (eqx.is_array_like(x) or hasattr(x, "__jax_array__")):
        raise TypeError(
            f"`{name}` {said} {_kind(x)}; it must be one array, with nothing beside it."
        )
    x = jnp.asarray(x)
    if not _is_real(x.dtype):
        raise ValueError(f"`{name}` {said} {x.dtype}; it must be real numbers.")
    return x


def as_scalar(name: str, x: Any, said: str = "returned") -> Array:
    """What a critic or a value returned, or what a number `is`: a scalar of real floats."""
    x = as_answer(name, x, said)
    if x.shape != ():
        raise ValueError(
            f"`{name}` {said} an array of shape {x.shape}; it must be a scalar. "
            "Squeeze a trailing axis of size 1, reduce an ensemble (say with `jnp.min`), "
            "and for a batch, wrap the call in `jax.vmap`."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"`{name}` {said} {x.dtype}; it must be a float.")
    return x


def as_vector(name: str, x: Any) -> Array:
    """What gives every member's value returned: a vector of floats."""
    x = as_answer(name, x)
    if x.ndim != 1 or len(x) == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` returned {x.dtype} of shape {x.shape}; it must be a vector of floats, one "
            "for each member of the ensemble."
        )
    return x


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def _kind(x: Any) -> str:
    return "None" if x is None else f"a {type(x).__name__}"


def as_gradient(name: str, g: Any, a_t: Array) -> Array:
    """What an estimator returned, of the shape and dtype of `a_t`."""
    g = as_answer(name, g)
    if g.shape != a_t.shape:
        raise ValueError(
            f"`{name}` returned an array of shape {g.shape} for a point of shape {a_t.shape}; "
            "it must return a gradient of that shape."
        )
    return g.astype(a_t.dtype)


def as_weight(weight: Any, shape: tuple[int, ...]) -> Array:
    """A weight's value as an array that broadcasts to `shape`."""
    try:
        weight = jnp.asarray(weight)
    except (TypeError, ValueError):
        raise _no_weight(weight) from None
    weight = as_reals("weight", weight)
    check_broadcasts("weight", weight.shape, shape)
    return weight


def _no_weight(weight: Any) -> TypeError:
    return TypeError(
        f"`weight` must be a number, an array or a function of (t, v, g), got {weight!r}."
    )


def check_broadcasts(name: str, shape: tuple[int, ...], action_shape: tuple[int, ...]) -> None:
    """Refuses what does not broadcast to an action."""
    try:
        fits = jnp.broadcast_shapes(shape, action_shape) == tuple(action_shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"`{name}` has shape {shape}, which does not broadcast to the action's shape "
            f"{tuple(action_shape)}. Use a number, or one per action dimension; for one "
            "per row of a batch, `jax.vmap` over it."
        )


def check_finite_weight(weight: Any) -> None:
    """Refuses a weight that is neither a function nor finite numbers; not if traced."""
    if callable(weight) or isinstance(weight, Tracer):
        return
    numbers = _numbers(weight)
    if numbers is None:
        raise _no_weight(weight)
    if not np.isfinite(numbers).all():
        raise ValueError(f"`weight` must be finite, got {weight}.")


def check_same_shape(name: str, shape: tuple[int, ...], other: str, wanted: tuple[int, ...]):
    """Refuses two shapes that differ, which arithmetic would broadcast."""
    if tuple(shape) != tuple(wanted):
        raise ValueError(
            f"`{name}` has shape {tuple(shape)}, but `{other}` has {tuple(wanted)}: the two must "
            "be equal. If one of them is a batch, wrap the call in `jax.vmap`."
        )


def check_key(key: Any) -> None:
    """Refuses what is not one key."""
    if isinstance(key, jax.Array | np.ndarray):
        dtype = key.dtype
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            extra = key.shape
        elif dtype == np.uint32 and key.shape[-1:] == _legacy_shape():
            extra = key.shape[:-1]
        else:
            extra = None
        if extra == ():
            return
        if extra is not None:
            raise ValueError(
                f"`key` is a batch of keys of shape {extra}; pass one key, and wrap the call in "
                "`jax.vmap`."
            )
    raise TypeError(f"`key` must be one key, as made by `jax.random.key(0)`, got {key!r}.")


def _legacy_shape() -> tuple[int, ...]:
    """Of a key as made by `jax.random.PRNGKey`, which depends on JAX's configuration."""
    return jax.eval_shape(jax.random.PRNGKey, 0).shape


def check_readable(obs: Obs) -> None:
    """Refuses an observation with a leaf that is not numbers, or not finite as the networks see
    it: in the dtype that JAX computes in."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(obs):
        place = f"obs{jax.tree_util.keystr(path)}"
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            continue  # a key
        numbers = _numbers(leaf)
        if numbers is None:
            raise TypeError(
                f"`{place}` is {leaf!r}, which is not numbers: give the sampler arrays of numbers "
                "only."
            )
        with np.errstate(over="ignore"):
            bad = np.argwhere(~np.isfinite(numbers.astype(jax.dtypes.canonicalize_dtype(float))))
        if len(bad):
            index = tuple(bad[0].tolist())
            where = f"{place}{list(index) if index else ''}"
            raise ValueError(f"`{where}` is {numbers[index]}: refusing to act on it.")

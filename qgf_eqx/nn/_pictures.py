"""Networks of observations with pictures: an encoder in front of a network of numbers."""

from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, glorot_uniform, lecun_normal
from jaxtyping import Array, Float, Num

from .._checks import as_reals, check_count, check_key
from .._fields import given
from .._types import Key, Obs

PictureShape: TypeAlias = tuple[int, int, int]
"""Height, width and channels of a picture."""


class ImpalaEncoder(eqx.Module):
    """IMPALA's convolutional encoder: a picture to a vector.

    Each stack is a convolution, a maximum over 3 x 3 at every second pixel, and residual blocks of
    two convolutions; all are 3 x 3. A dense layer is the last. The defaults are the small one of
    OGBench. Bytes are divided by 255.

    Source: IMPALA (arXiv 1802.01561), figure 3; sizes from OGBench (arXiv 2410.20092).
    """

    stacks: tuple["_Stack", ...]
    dense: eqx.nn.Linear
    shape: PictureShape = eqx.field(static=True)

    def __init__(
        self,
        shape: PictureShape,
        *,
        features: int = 512,
        channels: tuple[int, ...] = (16, 32, 32),
        blocks: int = 1,
        key: Key,
    ):
        """**Arguments:**

        - `shape`: of a picture, `(height, width, channels)`. Frames of several moments may lie in
          its channels.
        - `features`: how many numbers come out.
        - `channels`: of each stack, which halves height and width.
        - `blocks`: residual blocks in a stack.
        - `key`: for the initial parameters.
        """
        self.shape = _picture_shape(shape)
        features = check_count("features", features, "it is a size of a network")
        blocks = check_count("blocks", blocks, "it counts the blocks of a stack", least=0)
        check_key(key)
        *keys, last = jax.random.split(key, len(channels) + 1)
        *size, depth = self.shape
        self.stacks = ()
        for width, k in zip(channels, keys, strict=True):
            check_count("channels", width, "it is a size of a network")
            self.stacks += (_Stack(size, depth, width, blocks, k),)
            size, depth = [-(-n // 2) for n in size], width
        inputs = size[0] * size[1] * depth
        self.dense = eqx.nn.Linear(inputs, features, key=last)
        self.dense = _with_kernel(self.dense, lecun_normal()(last, (inputs, features)).T)

    def __call__(self, picture: Num[Array, "height width channels"]) -> Float[Array, " features"]:
        """The features of one picture: of bytes, or of floats that are scaled already."""
        if picture.shape != self.shape:
            raise ValueError(
                f"the picture has shape {picture.shape}, but the encoder was built for "
                f"{self.shape}: height, width and channels. If it is a batch, wrap the call in "
                "`jax.vmap`."
            )
        if not (picture.dtype == jnp.uint8 or jnp.issubdtype(picture.dtype, jnp.floating)):
            raise TypeError(
                f"the picture is of {picture.dtype}; it must be of bytes (uint8), which are "
                "divided by 255, or of floats that are scaled already."
            )
        kind = self.dense.weight.dtype
        x = picture.astype(kind) / (255 if picture.dtype == jnp.uint8 else 1)
        x = jnp.moveaxis(x, -1, 0)
        for stack in self.stacks:
            x = stack(x)
        return jax.nn.gelu(self.dense(jax.nn.relu(x).ravel()))


class ObsEncoder(eqx.Module):
    """An observation with pictures as one vector: the features of each picture, by an encoder of
    its own, behind the numbers of all other arrays.

    ```python
    key, encoder_key = jax.random.split(jax.random.key(0))
    encoder = ObsEncoder(7, ((64, 64, 3),), key=encoder_key)  # seven numbers and one camera
    policy = Encoded(encoder, VelocityMLP(encoder.size, (5, 7), key=key))
    ```
    """

    encoders: tuple[ImpalaEncoder, ...]
    numbers: int = eqx.field(static=True)

    def __init__(
        self, numbers: int, pictures: tuple[PictureShape, ...], *, features: int = 512, key: Key
    ):
        """**Arguments:**

        - `numbers`: how many numbers an observation holds beside its pictures.
        - `pictures`: their shapes, in the order of `jax.tree.leaves`.
        - `features`: how many numbers each picture becomes.
        - `key`: for the initial parameters.
        """
        self.numbers = check_count("numbers", numbers, "it is a size of a network", least=0)
        check_key(key)
        keys = jax.random.split(key, max(1, len(pictures)))
        self.encoders = tuple(
            ImpalaEncoder(shape, features=features, key=k)
            for shape, k in zip(pictures, keys, strict=False)
        )

    @property
    def size(self) -> int:
        """How many numbers come out."""
        return self.numbers + sum(e.dense.out_features for e in self.encoders)  # type: ignore[misc]

    def __call__(self, obs: Obs) -> Float[Array, " size"]:
        """The vector of one observation, any PyTree: arrays with three axes are its pictures."""
        leaves = list(map(jnp.asarray, jax.tree.leaves(obs)))
        pictures = [leaf for leaf in leaves if leaf.ndim == 3]
        numbers = [as_reals("obs", leaf).ravel() for leaf in leaves if leaf.ndim != 3]
        found = sum(leaf.size for leaf in numbers)
        if (len(pictures), found) != (len(self.encoders), self.numbers):
            raise ValueError(
                f"`obs` holds {len(pictures)} pictures and {found} other numbers, but the encoder "
                f"was built for {len(self.encoders)} and {self.numbers}. If `obs` is a batch, wrap "
                "the call in `jax.vmap`."
            )
        seen = [encode(p) for encode, p in zip(self.encoders, pictures, strict=True)]
        kind = jnp.result_type(*seen) if seen else jnp.float32
        return jnp.concatenate([*(n.astype(kind) for n in numbers), *seen])


class Encoded(eqx.Module):
    """A network with an encoder in front: `net(encoder(obs), ...)`.

    The network may be a policy, a critic or a value. Samplers call the encoder once per action, by
    `given`, and only `net` in every step.
    """

    encoder: Any
    """From an observation to what `net` takes for one, such as `ObsEncoder`."""
    net: Any

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of the network."""
        return self.net.action_shape

    def given(self, obs: Obs) -> "_Given":
        """The network at one observation, which is encoded already."""
        seen = self.encoder(obs)
        return _Given(given(self.net, seen), seen)

    def __call__(self, obs: Obs, *point: Any) -> Any:
        """What the network says of the encoded observation."""
        return self.net(self.encoder(obs), *point)


class _Given(eqx.Module):
    net: Any
    seen: Any

    def __call__(self, obs: Obs, *point: Any) -> Any:
        return self.net(self.seen, *point)


class _Stack(eqx.Module):
    first: eqx.nn.Conv2d
    pool: eqx.nn.MaxPool2d
    blocks: tuple[tuple[eqx.nn.Conv2d, eqx.nn.Conv2d], ...]

    def __init__(self, size, channels: int, width: int, blocks: int, key: Key):
        key, *keys = jax.random.split(key, 1 + 2 * blocks)
        self.first = _convolution(channels, width, key)
        same = tuple((n % 2, 1) for n in size)  # as "SAME", which Equinox's pooling does not know
        self.pool = eqx.nn.MaxPool2d(3, 2, padding=same)
        pairs = zip(keys[::2], keys[1::2], strict=True)
        self.blocks = tuple(tuple(_convolution(width, width, k) for k in pair) for pair in pairs)  # type: ignore[assignment]

    def __call__(self, x):
        x = self.pool(self.first(x))
        for first, second in self.blocks:
            x = x + second(jax.nn.relu(first(jax.nn.relu(x))))
        return x


def _convolution(channels: int, width: int, key: Key) -> eqx.nn.Conv2d:
    convolution = eqx.nn.Conv2d(channels, width, 3, padding="SAME", key=key)
    init: Initializer = glorot_uniform(in_axis=1, out_axis=0)
    return _with_kernel(convolution, init(key, convolution.weight.shape))


def _with_kernel(layer: Any, kernel: Array) -> Any:
    bias = jnp.zeros_like(layer.bias)
    return eqx.tree_at(lambda x: (x.weight, x.bias), layer, (kernel, bias))


def _picture_shape(shape: Any) -> PictureShape:
    try:
        high, wide, channels = shape
    except (TypeError, ValueError):
        raise ValueError(f"`shape` must be (height, width, channels), got {shape!r}.") from None
    sizes = (high, wide, channels)
    return tuple(check_count("shape", n, "it is a size of a picture") for n in sizes)  # type: ignore[return-value]

"""Random augmentations of pictures, for training."""

from typing import Any

import jax
import jax.numpy as jnp

from .._checks import check_count, check_key
from .._types import Key
from ._dataset import is_picture


def random_crop(tree: Any, key: Key, *, pixels: int = 3) -> Any:
    """Every picture shifted by up to `pixels` in each direction, all by the same amount; edge
    pixels are repeated to fill the gap.

    **Arguments:**

    - `tree`: any PyTree, such as the observations of a transition. Arrays of bytes (uint8) with
      three axes are its pictures, `(height, width, channels)`; others are returned as they are.
    - `key`: for the shift.
    - `pixels`: how far, at most; 0 changes nothing.

    Source: DrQ (arXiv 2004.13649), with OGBench's 3 pixels.
    """
    pixels = check_count("pixels", pixels, "it sets the size of an array", least=0)
    check_key(key)
    shift = jax.random.randint(key, (2,), 0, 2 * pixels + 1)

    def one(leaf):
        if not is_picture(leaf.dtype, leaf.shape):
            return leaf
        wide = jnp.pad(leaf, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
        return jax.lax.dynamic_slice(wide, (*shift, 0), leaf.shape)

    return jax.tree.map(one, tree)

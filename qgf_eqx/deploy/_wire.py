"""Messages as openpi's client packs them: msgpack, and arrays of numbers as their bytes."""

from typing import Any

import msgpack
import numpy as np

_MOST = {"max_array_len": 4096, "max_map_len": 4096}
"""A list of numbers is Python objects, and slow: large arrays travel as their bytes."""
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"


class WireError(ValueError):
    """A message that cannot be read."""


def pack(message: Any) -> bytes:
    """A message of numbers, texts, arrays and containers of them."""
    return msgpack.packb(message, default=_packed) or b""


def unpack(frame: bytes) -> Any:
    """What `pack` packed. Nothing of it is executed.

    **Raises:** `WireError` that says what is wrong with the message.
    """
    try:
        return msgpack.unpackb(frame, object_hook=_unpacked, strict_map_key=False, **_MOST)
    except WireError:
        raise
    except Exception as error:  # msgpack has many kinds
        raise WireError(f"the message is not msgpack ({error or type(error).__name__}).") from None


def _packed(value: Any) -> dict:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"an array of {value.dtype} is not numbers.")
        if isinstance(value, np.generic):
            return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
        parts = {b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
        return {_ARRAY: True, **parts}
    raise TypeError(f"{type(value).__name__} cannot be packed.")


def _unpacked(found: dict) -> Any:
    if _ARRAY not in found and _SCALAR not in found:
        return found
    try:
        dtype = np.dtype(found[b"dtype"])
        if dtype.kind not in "biuf":
            raise WireError(f"the message holds an array of {dtype}, which is not numbers.")
        if _SCALAR in found:
            return dtype.type(found[b"data"])
        return np.frombuffer(found[b"data"], dtype).reshape(found[b"shape"])
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"the message holds an array that cannot be read ({error}).") from None

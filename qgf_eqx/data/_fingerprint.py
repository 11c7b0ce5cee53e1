"""What tells two datasets apart, at a cost that does not grow with them."""

import hashlib

import numpy as np

from ._dataset import Dataset, by_name

_BLOCK = 1 << 16
_WHOLE = 1 << 29


def fingerprint(dataset: Dataset) -> dict[str, str]:
    """The type, shape and sha256 of every field, wherever its numbers lie.

    For a field above 512 MiB it reads 8192 blocks of 64 KiB, evenly spaced from the first byte to
    the last: a second or two for all fields, whatever their size.
    """
    return {name: _of_field(np.asarray(field)) for name, field in by_name(dataset).items()}


_OLD = {"observations": "obs", "terminals": "episode_end", "masks": "terminated"}


def differing(found: object, now: dict[str, str]) -> list[str]:
    """The fields in which two fingerprints differ, by their current names.

    **Arguments:** `found` is a checkpoint's fingerprint, with current names or those of version
    0.1 (`observations`, `masks`, `terminals`); `now` is the `fingerprint` of a dataset. `masks`
    are the inverse of `terminated`, so these two are not compared.
    """
    known = {_OLD.get(n, n): text for n, text in found.items()} if isinstance(found, dict) else {}
    if isinstance(found, dict) and "masks" in found:
        known["terminated"] = now.get("terminated")
    return [name for name in {**now, **known} if known.get(name) != now.get(name)]


def _of_field(field: np.ndarray) -> str:
    numbers = np.ascontiguousarray(field).reshape(-1).view(np.uint8)
    digest = hashlib.sha256()
    if len(numbers) <= _WHOLE:
        digest.update(numbers.data)
    else:
        for start in np.linspace(0, len(numbers) - _BLOCK, _WHOLE // _BLOCK, dtype=np.int64):
            digest.update(numbers[start : start + _BLOCK].data)
    return f"{field.dtype.name}{list(field.shape)} {digest.hexdigest()}"

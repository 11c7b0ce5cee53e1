"""A sampler as a file that JAX alone can run."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from .._files import write_atomically
from .._types import Action, Key, Obs
from ._observation import Expected

FORMAT = "qgf_eqx export 1"
PLATFORMS = ("cpu", "cuda")
KNOWN = (*PLATFORMS, "rocm", "tpu")


def export(
    act: Callable[[Obs, Key], Action],
    obs: Obs,
    path: str | Path,
    *,
    platforms: tuple[str, ...] = PLATFORMS,
    about: dict[str, Any] | None = None,
) -> Path:
    """Writes a sampler to a file, networks included: a program for any number of observations.

    ```python
    act = functools.partial(qgf_eqx.sample, policy, critic, weight=0.1)
    export(act, obs, "policy.zip", about={"robot": "left arm"})
    ```

    The file is a zip of `program.bin` (StableHLO, by `jax.export`) and `metadata.json`, without
    Python code. To run it you need `jax`, and `flatbuffers`, which JAX uses to read the program:

    ```python
    with zipfile.ZipFile("policy.zip") as file:
        about = json.loads(file.read("metadata.json"))
        program = jax.export.deserialize(bytearray(file.read("program.bin")))
    keys = jax.random.split(jax.random.key(0), len(batch_of_obs))
    actions = program.call(batch_of_obs, jax.random.key_data(keys))
    ```

    On the same machine and with the same JAX the actions have the bits of `jax.jit(jax.vmap(act))`.

    **Arguments:**

    - `act`: from one observation and a key to an action, or to anything else.
    - `obs`: one observation, for the shapes and dtypes.
    - `path`: of the file.
    - `platforms`: where it is to run, of `cpu`, `cuda`, `rocm` and `tpu`.
    - `about`: more for the metadata, such as the bounds of the actions; arrays, and anything that
      JSON takes.

    **Returns:** the path.

    A policy or critic that uses a callback cannot be exported: it is not JAX code. Make `act` with
    `sample`; `jit_sampler` is already compiled.

    **Raises:** `ImportError` without flatbuffers (`pip install 'qgf_eqx[export]'`); `TypeError` or
    `ValueError` if the observation is not of finite numbers.
    """
    _need_flatbuffers()
    unknown = sorted(set(platforms) - {*KNOWN})
    if unknown or not platforms:
        raise ValueError(f"`platforms` must be of {', '.join(KNOWN)}, got {list(platforms)}.")
    expected = Expected(obs)

    def run(obs: Obs, key_data: jax.Array) -> Action:
        return act(obs, jax.random.wrap_key_data(key_data, impl="threefry2x32"))

    (rows,) = jax_export.symbolic_shape("batch")
    one = expected(obs)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), _dtype(x)), one)
    keys = jax.ShapeDtypeStruct((rows, 2), jnp.uint32)
    program = jax_export.export(jax.jit(jax.vmap(run)), platforms=platforms)(like, keys)
    parts = zip(expected.paths, expected.leaves, strict=True)
    found = {
        "format": FORMAT,
        "platforms": list(platforms),
        "jax": jax.__version__,
        "calling convention": program.calling_convention_version,
        "obs": {name: _described(leaf.shape, _dtype(leaf)) for name, leaf in parts},
        "action": [_described(leaf.shape[1:], leaf.dtype) for leaf in program.out_avals],
        **(about or {}),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("metadata.json", json.dumps(found, indent=2, default=np.ndarray.tolist))
        archive.writestr("program.bin", bytes(program.serialize()))
    return path


def _need_flatbuffers() -> None:
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"qgf_eqx.deploy.export needs flatbuffers ({error}): pip install 'qgf_eqx[export]'"
        ) from error


def _dtype(leaf: np.ndarray) -> Any:
    return jax.dtypes.canonicalize_dtype(leaf.dtype)


def _described(shape: tuple, dtype: Any) -> dict[str, Any]:
    return {"shape": list(map(int, shape)), "dtype": str(dtype)}

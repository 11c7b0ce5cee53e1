"""The verbs that bring a run to a robot: `export`, `serve`."""

import dataclasses
import sys
from contextlib import suppress
from pathlib import Path

from ._options import Common, Drawing, MaybePath, OtherTask, Positional, Weight
from ._refuse import at_least, check_folders, check_new


def export(
    run: Positional[Path],
    /,
    method: str = "qgf",
    weight: Weight = Weight(),  # noqa: B008 (frozen)
    flow: Drawing = Drawing(),  # noqa: B008 (frozen)
    task: OtherTask = OtherTask(),  # noqa: B008 (frozen)
    platforms: tuple[str, ...] = ("cpu", "cuda"),
    out: MaybePath = None,
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Write a run's policy to a file that JAX alone can run, without this library.

    The file is a zip: a program for any number of observations, which contains the networks and
    the units of observations and actions, and its description as JSON.

    Args:
        run: Folder of a training run.
        method: As for `evaluate`; `qgf-eqx methods` prints the names.
        weight: The guidance weight.
        flow: How an action is drawn.
        task: The task whose action bounds to use, if not that of the run.
        platforms: Platforms that the file must support: cpu, cuda, rocm, tpu.
        out: The file, .zip. Default: policy.zip in the run's folder.
        common: Options common to all commands.
    """
    check_folders(run)
    at_least(1, steps=flow.steps)
    path = out or run / "policy.zip"
    check_new(path, ".zip")
    common.begin()
    from ..deploy.export import export as write

    opened, about = _open(run, method, weight, flow, task, common)
    write(opened.draw, opened.obs, path, platforms=platforms, about=about)
    size = path.stat().st_size / 1e6
    common.result({"file": str(path), "bytes": path.stat().st_size}, f"{path}: {size:.1f} MB")


def serve(
    run: Positional[Path],
    /,
    method: str = "qgf",
    weight: Weight = Weight(),  # noqa: B008 (frozen)
    flow: Drawing = Drawing(),  # noqa: B008 (frozen)
    task: OtherTask = OtherTask(),  # noqa: B008 (frozen)
    host: str = "127.0.0.1",
    port: int = 8000,
    seed: int = 0,
    largest_batch: int = 16,
    common: Common = Common(),  # noqa: B008 (frozen)
) -> None:
    """Serve a run's policy to robots, in the protocol of openpi's websocket client.

    A client sends observations, and gets `{"actions": chunk}`; `GET /healthz` answers OK. The
    server has no authentication: on a host other than 127.0.0.1, anyone who can reach it can use
    it.

    Args:
        run: Folder of a training run.
        method: As for `evaluate`; `qgf-eqx methods` prints the names.
        weight: The guidance weight.
        flow: How an action is drawn.
        task: The task whose action bounds to use, if not that of the run.
        host: The address to listen on.
        port: The port to listen on; 0 is any free one.
        seed: The seed of the actions.
        largest_batch: The most requests in one batch.
        common: Options common to all commands.
    """
    check_folders(run)
    at_least(1, steps=flow.steps, largest_batch=largest_batch)
    at_least(0, seed=seed, port=port)
    common.begin()
    import jax

    from ..deploy.serve import PolicyServer

    opened, about = _open(run, method, weight, flow, task, common)
    key, options = jax.random.key(seed), {"host": host, "port": port, "metadata": about}
    options |= {"fallback": opened.plain, "largest_batch": largest_batch}
    common.say("Compiling the policy for batches of several sizes ...")
    with PolicyServer(opened.draw, opened.obs, key, **options) as server:
        address = f"ws://{host}:{server.port}"
        common.result({"url": address}, f"Serving {run} at {address}; Ctrl-C ends it.")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            server.wait()


def _open(
    run: Path, name: str, weight: Weight, flow: Drawing, task: OtherTask, common: Common
) -> tuple:
    """The policy of a run, and what is said about it."""
    from ..evaluate import method, open_policy
    from ..learn import load_config

    sampler = method(name, steps=flow.steps, reduce=flow.reduction)
    if weight.is_for(sampler):
        found = weight.value(run, flow, task.env, common)
        sampler = dataclasses.replace(sampler, weight=found)
    opened = open_policy(run, sampler, task=task.env)
    bounds = {"low": opened.low.tolist(), "high": opened.high.tolist()}
    about = {
        "task": task.env or load_config(run)[0].env,
        "method": name,
        "weight": str(sampler.weight),
    }
    return opened, {**about, "bounds": bounds}

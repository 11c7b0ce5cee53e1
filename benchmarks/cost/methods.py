"""Every test-time method, and the networks of the paper's sizes: what `measure.py` measures."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

import qgf_eqx
from qgf_eqx import guidance
from qgf_eqx._types import Action, Key, Obs, Policy
from qgf_eqx.nn import CriticMLP, Ensemble, TimedCriticMLP, VelocityMLP
from qgf_eqx.steering import ClassifierFree, grad_step

OBS, SHAPE, CRITICS, STEPS = 46, (5, 5), 2, 10  # cube-triple, chunks of 5 actions
REMAINING = STEPS * (STEPS + 1) // 2  # policy calls of the chains from every step to the end


class Nets(NamedTuple):
    """What a method may ask; None where it does not."""

    policy: Policy | None
    critic: Ensemble | None
    timed: TimedCriticMLP | None
    conditioned: VelocityMLP | None


class Method(NamedTuple):
    """How an action is drawn, and what that reads."""

    act: Callable  # (nets, obs, key, unroll) -> action
    passes: dict[str, int]  # over the weights of each net, forward and backward, per action
    rows: int = 1  # that share a pass
    unrolls: bool = False
    best_of: int = 1


def chain(nets: Nets, obs: Obs, key: Key, unroll: bool, **options) -> Action:
    """`sample` scans; unrolled, it is this."""
    policy, critic = nets.policy, nets.critic or never_asked
    assert policy is not None
    if not unroll:
        return qgf_eqx.sample(policy, critic, obs, key, steps=STEPS, **options)
    noise = jax.random.normal(jax.random.fold_in(key, 0), SHAPE)
    return qgf_eqx.guided_flow(policy, critic, obs, noise, steps=STEPS, unroll=True, **options)


def never_asked(obs, action):
    raise AssertionError("this method has no critic")


def to_the_end(estimator: Callable, nets: Nets, obs: Obs, key: Key, unroll: bool) -> Action:
    """Unrolled in any case: from each step it walks the rest of the flow."""
    return chain(nets, obs, key, True, guidance=eqx.Partial(estimator, steps=STEPS))


def flow_and_grad_step(nets: Nets, obs: Obs, key: Key, unroll: bool) -> Action:
    assert nets.critic is not None
    return grad_step(nets.critic, obs, chain(nets, obs, key, unroll, weight=0), steps=3)


def robust(nets: Nets, obs: Obs, key: Key, unroll: bool) -> Action:
    estimate = eqx.Partial(guidance.robust, robust_critic=nets.timed)
    return chain(nets, obs, key, unroll, guidance=estimate)


def cfgrl(nets: Nets, obs: Obs, key: Key, unroll: bool) -> Action:
    assert nets.conditioned is not None
    free = ClassifierFree(nets.conditioned)
    return chain(nets._replace(policy=free), obs, key, unroll, weight=0)


def best_of(options: dict, nets: Nets, obs: Obs, key: Key, unroll: bool) -> Action:
    return chain(nets, obs, key, False, **options)


def best_of_flow(n: int) -> Method:
    passes = {"policy": STEPS, "critic": 1}
    return Method(partial(best_of, {"weight": 0, "best_of": n}), passes, n, best_of=n)


def best_of_qgf(n: int) -> Method:
    passes = {"policy": STEPS, "critic": 2 * STEPS + 1}
    return Method(partial(best_of, {"best_of": n}), passes, n, best_of=n)


def guided(estimator: Callable, **passes: int) -> Method:
    """One estimator. `passes`: of the policy, where they are more than the flow's own."""
    passes = {"policy": STEPS, "critic": 2 * STEPS} | passes
    return Method(partial(chain, guidance=estimator), passes, unrolls=True)


def looks_ahead(k: int) -> Method:
    return guided(eqx.Partial(guidance.look_ahead, steps=k), policy=STEPS * (1 + k))


# By the names of `qgf_eqx.evaluate.names`, which are written here and not read: importing that
# table brings in all of evaluation, and the start of a process is measured too. `robust` and
# `cfgrl` take networks of their own and have no name there.
METHODS = {
    "flow": Method(partial(chain, weight=0), {"policy": STEPS}, unrolls=True),
    "qgf": guided(guidance.qgf),
    "ood": guided(guidance.ood),
    "qgf-jacobian": guided(guidance.qgf_jacobian, policy=2 * STEPS),
    "qgf-chain": Method(
        partial(to_the_end, guidance.qgf_chain),
        {"policy": STEPS + REMAINING, "critic": 2 * STEPS},
    ),
    "bptt": Method(
        partial(to_the_end, guidance.bptt),
        {"policy": STEPS + 2 * REMAINING, "critic": 2 * STEPS},
    ),
    "look-ahead-2": looks_ahead(2),
    "look-ahead-4": looks_ahead(4),
    "grad-step": Method(flow_and_grad_step, {"policy": STEPS, "critic": 2 * 3}, unrolls=True),
    "robust": Method(robust, {"policy": STEPS, "timed": 2 * STEPS}, unrolls=True),
    "cfgrl": Method(cfgrl, {"conditioned": STEPS}, rows=2, unrolls=True),
    **{f"best-of-{n}": best_of_flow(n) for n in (4, 16, 32)},
    **{f"qgf-best-of-{n}": best_of_qgf(n) for n in (4, 16)},
}


def make_nets(needed: Collection[str], width: int, half: bool) -> Nets:
    """Random weights, of the nets that are needed."""

    @eqx.filter_jit
    def make(key):
        member = lambda k: CriticMLP(OBS, SHAPE, width=width, key=k)  # noqa: E731
        makers = {
            "policy": lambda k: VelocityMLP(OBS, SHAPE, width=width, key=k),
            "critic": lambda k: Ensemble(member, CRITICS, key=k),
            "timed": lambda k: TimedCriticMLP(OBS, SHAPE, width=width, key=k),
            "conditioned": lambda k: VelocityMLP(OBS + 1, SHAPE, width=width, key=k),
        }
        keys = dict(zip(makers, jax.random.split(key, len(makers)), strict=True))
        nets = Nets(**{n: make(keys[n]) if n in needed else None for n, make in makers.items()})
        cast = lambda x: x.astype(jnp.bfloat16) if half and eqx.is_array(x) else x  # noqa: E731
        return jax.tree.map(cast, nets)

    return make(jax.random.key(0))


def size(net: Any) -> int:
    """Parameters."""
    return sum(x.size for x in jax.tree.leaves(net) if eqx.is_array(x))


def bytes_read(nets: Nets, method: Method) -> int:
    """Of weights per action: bytes of a parameter x parameters x passes, summed over the nets.

    A pass is one call, forward or backward, and reads every parameter once, whatever the number
    of rows: the candidates of a best-of-N share it, and so do the rows of a batch. At batch 1
    `LeastMember` reads less, one critic in each backward pass.
    """
    bytes_each = next(x.dtype.itemsize for x in jax.tree.leaves(nets) if eqx.is_array(x))
    return bytes_each * sum(n * size(getattr(nets, net)) for net, n in method.passes.items())

"""Every test-time method, and the networks of the paper's sizes: what `measure.py` measures."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

import qgf_eqx
from qgf_eqx import guidance
from qgf_eqx.nn import CriticMLP, Ensemble, TimedCriticMLP, VelocityMLP
from qgf_eqx.steering import ClassifierFree, grad_step

OBS, SHAPE, CRITICS, STEPS = 46, (5, 5), 2, 10  # cube-triple, chunks of 5 actions
REMAINING = STEPS * (STEPS + 1) // 2  # policy calls of the chains from every step to the end


class Nets(NamedTuple):
    """What a method may ask; None where it does not."""

    policy: VelocityMLP | None
    critic: Ensemble | None
    timed: TimedCriticMLP | None
    conditioned: VelocityMLP | None


class Method(NamedTuple):
    """How an action is drawn, and what that reads."""

    act: Callable  # (nets, obs, key, unroll) -> action
    passes: dict[str, int]  # over the weights of each net, forward and backward, per action
    rows: int = 1  # that share a pass
    unrolls: bool = False


def chain(nets, obs, key, unroll, **options):
    """`sample` scans; unrolled, it is this."""
    policy, critic = nets.policy, nets.critic or never_asked
    if not unroll:
        return qgf_eqx.sample(policy, critic, obs, key, steps=STEPS, **options)
    noise = jax.random.normal(jax.random.fold_in(key, 0), SHAPE)
    return qgf_eqx.guided_flow(policy, critic, obs, noise, steps=STEPS, unroll=True, **options)


def never_asked(obs, action):
    raise AssertionError("this method has no critic")


def flow(nets, obs, key, unroll):
    return chain(nets, obs, key, unroll, weight=0)


def ood(nets, obs, key, unroll):
    return chain(nets, obs, key, unroll, guidance=guidance.ood)


def qgf(nets, obs, key, unroll):
    return chain(nets, obs, key, unroll)


def qgf_jacobian(nets, obs, key, unroll):
    return chain(nets, obs, key, unroll, guidance=guidance.qgf_jacobian)


def look_ahead(steps, nets, obs, key, unroll):
    look = eqx.Partial(guidance.look_ahead, steps=steps)
    return chain(nets, obs, key, unroll, guidance=look)


def qgf_chain(nets, obs, key, unroll):
    end = eqx.Partial(guidance.qgf_chain, steps=STEPS)
    return chain(nets, obs, key, True, guidance=end)


def bptt(nets, obs, key, unroll):
    end = eqx.Partial(guidance.bptt, steps=STEPS)
    return chain(nets, obs, key, True, guidance=end)


def flow_and_grad_step(nets, obs, key, unroll):
    return grad_step(nets.critic, obs, flow(nets, obs, key, unroll), steps=3)


def robust(nets, obs, key, unroll):
    estimate = eqx.Partial(guidance.robust, robust_critic=nets.timed)
    return chain(nets, obs, key, unroll, guidance=estimate)


def cfgrl(nets, obs, key, unroll):
    free = ClassifierFree(nets.conditioned)
    return chain(nets._replace(policy=free), obs, key, unroll, weight=0)


def best_of(n, options, nets, obs, key, unroll):
    return qgf_eqx.sample(nets.policy, nets.critic, obs, key, steps=STEPS, best_of=n, **options)


def best_of_flow(n):
    passes = {"policy": STEPS, "critic": 1}
    return Method(partial(best_of, n, {"weight": 0}), passes, n)


def best_of_qgf(n):
    passes = {"policy": STEPS, "critic": 2 * STEPS + 1}
    return Method(partial(best_of, n, {}), passes, n)


def looks_ahead(k):
    passes = {"policy": STEPS * (1 + k), "critic": 2 * STEPS}
    return Method(partial(look_ahead, k), passes, unrolls=True)


_GUIDED = {"policy": STEPS, "critic": 2 * STEPS}
METHODS = {
    "flow": Method(flow, {"policy": STEPS}, unrolls=True),
    "ood": Method(ood, _GUIDED, unrolls=True),
    "qgf": Method(qgf, _GUIDED, unrolls=True),
    "qgf_jacobian": Method(qgf_jacobian, {"policy": 2 * STEPS, "critic": 2 * STEPS}, unrolls=True),
    "look_ahead 2": looks_ahead(2),
    "look_ahead 4": looks_ahead(4),
    "qgf_chain": Method(qgf_chain, {"policy": STEPS + REMAINING, "critic": 2 * STEPS}),
    "bptt": Method(bptt, {"policy": STEPS + 2 * REMAINING, "critic": 2 * STEPS}),
    "grad_step": Method(flow_and_grad_step, {"policy": STEPS, "critic": 2 * 3}, unrolls=True),
    "robust": Method(robust, {"policy": STEPS, "timed": 2 * STEPS}, unrolls=True),
    "cfgrl": Method(cfgrl, {"conditioned": STEPS}, rows=2, unrolls=True),
    **{f"best-of-{n}": best_of_flow(n) for n in (4, 16, 32)},
    **{f"qgf best-of-{n}": best_of_qgf(n) for n in (4, 16)},
}


def make_nets(needed, width, half):
    """Random weights, of the nets that are needed."""

    @eqx.filter_jit
    def make(key):
        keys = jax.random.split(key, 4)
        member = lambda k: CriticMLP(OBS, SHAPE, width=width, key=k)  # noqa: E731
        makers = Nets(
            lambda k: VelocityMLP(OBS, SHAPE, width=width, key=k),
            lambda k: Ensemble(member, CRITICS, key=k),
            lambda k: TimedCriticMLP(OBS, SHAPE, width=width, key=k),
            lambda k: VelocityMLP(OBS + 1, SHAPE, width=width, key=k),
        )
        wanted = zip(makers, Nets._fields, keys, strict=True)
        nets = Nets(*(make(k) if name in needed else None for make, name, k in wanted))
        cast = lambda x: x.astype(jnp.bfloat16) if half and eqx.is_array(x) else x  # noqa: E731
        return jax.tree.map(cast, nets)

    return make(jax.random.key(0))


def size(net):
    """Parameters."""
    return sum(x.size for x in jax.tree.leaves(net) if eqx.is_array(x))


def bytes_read(nets, method):
    """Of weights per action: bytes of a parameter x parameters x passes, summed over the nets.

    A pass is one call, forward or backward, and reads every parameter once, whatever the number
    of rows: the candidates of a best-of-N share it, and so do the rows of a batch. At batch 1
    `LeastMember` reads less, one critic in each backward pass.
    """
    bytes_each = next(x.dtype.itemsize for x in jax.tree.leaves(nets) if eqx.is_array(x))
    return bytes_each * sum(n * size(getattr(nets, net)) for net, n in method.passes.items())

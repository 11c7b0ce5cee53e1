"""Flows and critics in plain NumPy, with every derivative written out, and every estimator again.

An estimator here forms each matrix and solves each system; nothing is shared with the package but
the formulas. A `Case` also carries the same flow and critic for the package.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from qgf_eqx.analytic import GaussianFlow, MixtureFlow

MEAN = np.array([0.3, -0.7, 1.1])
STD = np.array([0.2, 0.5, 0.9])
LINEAR = np.array([0.4, -1.0, 0.2])
CURVATURE = 0.6
HESSIAN = -np.array([[0.6, 0.2, 0.0], [0.2, 0.9, -0.1], [0.0, -0.1, 0.4]])
MEANS = np.array([[1.0, 0.0, -1.0], [0.5, 1.5, 0.0], [-1.0, -0.5, 1.0]])
MATRIX = np.array([[-0.5, 0.9, 0.1], [-0.3, 0.2, 0.6], [0.4, -0.8, 0.3]])


@dataclasses.dataclass(frozen=True)
class Case:
    policy: Callable
    critic: Callable
    velocity: Callable
    slope: Callable  # dv / da, a matrix
    grad_q: Callable
    hessian: np.ndarray
    q: Callable


def _gain(t):
    return (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * STD**2)


def _mixture(a, t):
    var = (1 - t) ** 2 + t**2 * 0.4**2
    gain = (t * 0.4**2 - (1 - t)) / var
    offsets = a - t * MEANS
    share = softmax(-np.sum(offsets**2, axis=1) / (2 * var))
    scores = -offsets / var
    velocities = MEANS + gain * offsets
    bend = share[:, None] * (scores - share @ scores)
    return share @ velocities, gain * np.eye(3) + velocities.T @ bend


FLOWS = {
    "gaussian": (
        lambda: GaussianFlow(MEAN, STD),
        lambda a, t: MEAN + _gain(t) * (a - t * MEAN),
        lambda a, t: np.diag(_gain(t)),
    ),
    "mixture": (
        lambda: MixtureFlow(jnp.asarray(MEANS), 0.4),
        lambda a, t: _mixture(a, t)[0],
        lambda a, t: _mixture(a, t)[1],
    ),
    # Its Jacobian is not symmetric: an estimator that forgets to transpose it is found out.
    "affine": (
        lambda: lambda obs, a, t: (1 + t) * (jnp.asarray(MATRIX) @ a) + jnp.asarray(MEAN),
        lambda a, t: (1 + t) * MATRIX @ a + MEAN,
        lambda a, t: (1 + t) * MATRIX,
    ),
}

CRITICS = {
    "linear": np.zeros((3, 3)),
    "quadratic": HESSIAN,
    "isotropic": -CURVATURE * np.eye(3),
}


def case(flow, critic):
    make, velocity, slope = FLOWS[flow]
    hessian = CRITICS[critic]
    return Case(
        make(),
        lambda obs, a: jnp.dot(LINEAR, a) + a @ jnp.asarray(hessian) @ a / 2,
        velocity,
        slope,
        lambda a: LINEAR + hessian @ a,
        hessian,
        lambda a: LINEAR @ a + a @ hessian @ a / 2,
    )


def walk(case, a, t, count):
    """The end of `count` equal Euler steps from `t` to 1, and its Jacobian."""
    dt, jacobian = (1 - t) / count, np.eye(3)
    for k in range(count):
        time = t + k * dt
        a, jacobian = (
            a + dt * case.velocity(a, time),
            (np.eye(3) + dt * case.slope(a, time)) @ jacobian,
        )
    return a, jacobian


def estimate(case, name, a, t, *, noises=None, steps=10):
    """The gradient of the estimator of this name; options as in `test_guidance.OPTIONS`."""
    leap, jacobian = walk(case, a, t, 1)
    if name == "ood":
        return case.grad_q(a)
    if name == "qgf":
        return case.grad_q(leap)
    if name == "qgf_jacobian":
        return jacobian.T @ case.grad_q(leap)
    if name in ("qgf_chain", "bptt"):
        end, through = walk(case, a, t, max(round((1 - t) * steps), 1))
        return case.grad_q(end) if name == "qgf_chain" else through.T @ case.grad_q(end)
    if name in ("look_ahead", "look_ahead_jacobian"):
        end, through = walk(case, a, t, 3)
        return case.grad_q(end) if name == "look_ahead" else through.T @ case.grad_q(end)
    if name == "jacobian_regularized":
        return (0.7 * jacobian + 0.3 * np.eye(3)).T @ case.grad_q(leap)
    if name == "jacobian_ortho":
        left, _, right = np.linalg.svd(jacobian)
        return (left @ right).T @ case.grad_q(leap)
    if name == "jacobian_smooth":
        jacobians = [walk(case, a + 0.2 * eps, t, 1)[1] for eps in noises]
        return np.mean(jacobians, axis=0).T @ case.grad_q(leap)
    if name == "monte_carlo":
        std = 0.5 * (1 - t) / np.sqrt((1 - t) ** 2 + 0.25 * t**2)
        points = leap + std * noises
        share = softmax([case.q(point) / 0.8 for point in points])
        return share @ np.array([case.grad_q(point) for point in points])
    if name == "curvature":
        sigma = (1 - t) ** 2 / t * jacobian.T
        system = np.eye(3) - sigma @ case.hessian / 0.8
        return np.linalg.solve(system, sigma @ case.grad_q(leap)) / (1 - t)
    raise ValueError(name)


def guided_flow(case, name, noise, weight, steps, **options):
    a = noise
    for k in range(steps):
        t = k / steps
        g = estimate(case, name, a, t, steps=steps, **options)
        a = a + (case.velocity(a, t) + weight * g) / steps
    return a

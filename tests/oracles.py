"""The Gaussian flow, a quadratic critic and every estimator, again, in plain NumPy."""

import numpy as np

MEAN = np.array([0.3, -0.7, 1.1])
STD = np.array([0.2, 0.5, 0.9])
LINEAR = np.array([0.4, -1.0, 0.2])
CURVATURE = 0.6


def q(action):
    return LINEAR @ action - CURVATURE / 2 * action @ action


def grad_q(action):
    return LINEAR - CURVATURE * action


def gain(t):
    """The slope of the velocity in `a_t`."""
    return (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * STD**2)


def velocity(a_t, t):
    return MEAN + gain(t) * (a_t - t * MEAN)


def chain(a_t, t, steps):
    """The end of the remaining Euler grid, and the diagonal of its Jacobian."""
    count = max(round((1 - t) * steps), 1)
    dt, jacobian = (1 - t) / count, np.ones_like(a_t)
    for k in range(count):
        time = t + k * dt
        a_t, jacobian = a_t + dt * velocity(a_t, time), jacobian * (1 + dt * gain(time))
    return a_t, jacobian


def estimate(name, a_t, t, steps):
    leap, leap_jacobian = a_t + (1 - t) * velocity(a_t, t), 1 + (1 - t) * gain(t)
    end, end_jacobian = chain(a_t, t, steps)
    return {
        "ood": grad_q(a_t),
        "qgf": grad_q(leap),
        "qgf_jacobian": leap_jacobian * grad_q(leap),
        "qgf_chain": grad_q(end),
        "bptt": end_jacobian * grad_q(end),
    }[name]


def guided_flow(name, noise, weight, steps):
    a = noise
    for k in range(steps):
        t = k / steps
        a = a + (velocity(a, t) + weight * estimate(name, a, t, steps)) / steps
    return a

"""How near does guidance come to the law it aims at, where that law is known exactly?

For Gaussian mixtures and a linear or quadratic critic the tilted law `p(a) exp(Q / temperature)` is
again a mixture. Every estimator, with every schedule, solver and weight, is scored against it: the
Wasserstein-1 distance, the total variation on bins, and the error of the modes' masses. The
noises are quantiles, so that nothing is random.

    python benchmarks/closed_form.py

Writes `benchmarks/results/closed_form.json`, `docs/images/closed_form.svg` and prints the tables
of docs/estimators.md and docs/weights.md. Some minutes on two cores.
"""

import argparse
import json
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from tqdm import tqdm

from qgf_eqx import best, guidance, guided_flow, guided_solve
from qgf_eqx.analytic import MixtureFlow
from qgf_eqx.experiment import machine, versions
from qgf_eqx.steering import fk_steering
from qgf_eqx.weights import CappedRatio, GaussianCovariance, LinearDecay, LinearGrowth

HERE = Path(__file__).parent
SAMPLES = 500
MODES = 3

# name: means, stds, weights, and Q = linear a - curvature a^2 / 2
PROBLEMS = {
    "one Gaussian, linear Q": ([0.5] * 3, [0.5] * 3, [1, 1, 1], 1.0, 0.0),
    "one Gaussian, quadratic Q": ([0.5] * 3, [0.5] * 3, [1, 1, 1], 2.0, 2.0),
    "modes 1 3 5, Q = -(a-3)^2": ([1.0, 3.0, 5.0], [0.1] * 3, [1, 1, 1], 6.0, 2.0),
    "modes -2 0 2, Q = -a^2": ([-2.0, 0.0, 2.0], [0.1] * 3, [1, 1, 1], 0.0, 2.0),
    "modes -1 0 1.5, linear Q": ([-1.0, 0.0, 1.5], [0.3] * 3, [3, 2, 1], 1.0, 0.0),
}
INVERSE_TEMPERATURES = (0.3, 1.0, 3.0)
MULTIPLIERS = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
SCHEDULES = {
    "constant": lambda w, std: w,
    "(1-t)": lambda w, std: LinearDecay(w),
    "t": lambda w, std: LinearGrowth(w),
    "(1-t)/t, at most 5": lambda w, std: CappedRatio(w, 5.0),
    "Gaussian covariance": GaussianCovariance,
}
EULER = (5, 10, 20, 40)
SOLVERS = {f"Euler {n}": (n, None) for n in EULER} | {
    "Heun 10": (10, diffrax.Heun()),
    "Dopri5 20": (20, diffrax.Dopri5()),
}


def estimators(steps, temperature, std):
    """Every estimator, with what it may know: its temperature and the data's deviation."""
    posterior = eqx.Partial(guidance.posterior_std, data_std=std)
    return {
        "ood": guidance.ood,
        "qgf": guidance.qgf,
        "qgf_jacobian": guidance.qgf_jacobian,
        "look_ahead 2": eqx.Partial(guidance.look_ahead, steps=2),
        "qgf_chain": eqx.Partial(guidance.qgf_chain, steps=steps),
        "bptt": eqx.Partial(guidance.bptt, steps=steps),
        "monte_carlo": eqx.Partial(
            guidance.monte_carlo,
            key=jax.random.key(0),
            samples=64,
            std=posterior,
            temperature=temperature,
        ),
        "curvature": eqx.Partial(guidance.curvature, temperature=temperature, iterations=1),
    }


NAMES = tuple(estimators(1, 1.0, 1.0))


def pairs():
    """Estimator and schedule; the curvature estimator has its schedule inside."""
    return [(e, s) for e in NAMES for s in SCHEDULES if e != "curvature" or s == "constant"]


def make_draw(name, schedule, solver):
    """Samples of every multiplier, for a problem and a temperature that are traced."""
    steps, method = SOLVERS[solver]

    @jax.jit
    def draw(problem, inverse, noises):
        means, stds, weights, linear, curvature, std = problem
        policy = MixtureFlow(means, stds, weights)
        estimate = estimators(steps, 1 / inverse, std)[name]

        def one(multiplier, noise):
            options = {
                "guidance": estimate,
                "weight": SCHEDULES[schedule](multiplier * inverse, std),
                "steps": steps,
            }
            critic = lambda _, a: linear * a - curvature * a**2 / 2  # noqa: E731
            if method is None:
                return guided_flow(policy, critic, None, noise, **options)
            return guided_solve(policy, critic, None, noise, solver=method, **options)

        return jax.vmap(lambda m: jax.vmap(lambda n: one(m, n))(noises))(jnp.array(MULTIPLIERS))

    return draw


def overall_std(means, stds, weights):
    p = np.array(weights) / np.sum(weights)
    means, stds = np.array(means), np.array(stds)
    return float(np.sqrt(p @ (stds**2 + means**2) - (p @ means) ** 2))


def quantiles(flow, levels):
    """Of a mixture, by bisection of its distribution function."""
    means, stds, p = (np.asarray(x, float) for x in (flow.means, flow.stds, flow.weights))
    ends = (means - 9 * stds).min(), (means + 9 * stds).max()
    grid = np.linspace(*ends, 200_001)
    cdf = sum(w * stats.norm.cdf(grid, m, s) for m, s, w in zip(means, stds, p, strict=True))
    return np.interp(levels, cdf, grid), (grid, cdf)


EDGES = np.arange(-12, 12.1, 0.2)
LEVELS = (np.arange(SAMPLES) + 0.5) / SAMPLES


class Truth:
    """A law, with what `score` compares samples with: quantiles, bins and masses of the modes."""

    def __init__(self, law, centres):
        self.quantiles, (grid, cdf) = quantiles(law, LEVELS)
        self.borders = [-np.inf, *(centres[1:] + centres[:-1]) / 2, np.inf]
        self.bins = np.diff(np.interp(EDGES, grid, cdf))
        self.masses = np.diff(np.interp(self.borders, grid, cdf, left=0, right=1))


def score(samples, truth):
    """W1, total variation on bins of 0.2, and total variation of the masses of the modes."""
    samples = np.where(np.isfinite(samples), np.clip(samples, -50, 50), 50)
    w1 = np.mean(np.abs(np.sort(samples) - truth.quantiles))
    found = np.histogram(samples, EDGES)[0] / len(samples)
    bins = (np.abs(found - truth.bins).sum() + 1 - found.sum()) / 2
    masses = np.histogram(samples, truth.borders)[0] / len(samples)
    return w1, bins, np.abs(masses - truth.masses).sum() / 2


def problem_arrays(name):
    means, stds, weights, linear, curvature = PROBLEMS[name]
    arrays = (jnp.array(x, float) for x in (means, stds, weights))
    return (*arrays, linear, curvature, overall_std(means, stds, weights))


def run():
    noises = jnp.asarray(stats.norm.ppf(LEVELS), jnp.float32)
    cases = []
    for name, (means, stds, weights, linear, curvature) in PROBLEMS.items():
        flow = MixtureFlow(*(jnp.array(x, float) for x in (means, stds, weights)))
        for inverse in INVERSE_TEMPERATURES:
            target = flow.tilted(jnp.array(linear * inverse), curvature * inverse)
            cases.append((name, inverse, Truth(target, np.unique(means)), problem_arrays(name)))

    rows, plain = {}, {}
    work = [(e, s, solver) for e, s in pairs() for solver in SOLVERS]
    for estimator, schedule, solver in tqdm(work, unit=" settings", disable=None):
        draw = make_draw(estimator, schedule, solver)
        scores = rows[" | ".join((estimator, schedule, solver))] = []
        for name, inverse, truth, arrays in cases:
            if (name, inverse) not in plain:
                plain[name, inverse] = score(quantiles(MixtureFlow(*arrays[:3]), LEVELS)[0], truth)
            for drawn in np.asarray(draw(arrays, inverse, noises)):
                scores.append([round(float(x), 3) for x in score(drawn, truth)])
    return rows, [[*k, *(round(float(x), 4) for x in v)] for k, v in plain.items()], others(cases)


def others(cases):
    """What asks for values and not for gradients: best-of-N, and particles."""
    rows = []
    keys = jax.random.split(jax.random.key(0), SAMPLES)
    for name, inverse, truth, arrays in cases:
        means, stds, weights, linear, curvature, _ = arrays
        flow = MixtureFlow(means, stds, weights)
        critic = lambda _, a, q=linear, c=curvature: q * a - c * a**2 / 2  # noqa: E731

        def best_of(n, flow=flow, critic=critic):
            def one(key):
                noises = jax.random.normal(key, (n,))
                walk = lambda a: guided_flow(flow, critic, None, a, weight=0, steps=20)  # noqa: E731
                return best(critic, None, jax.vmap(walk)(noises))

            return one

        def particles(n, flow=flow, critic=critic, inverse=inverse):
            options = {"particles": n, "temperature": 1 / inverse, "steps": 20}
            return lambda key: fk_steering(flow, critic, None, key, **options)

        for label, draw in (
            ("best-of-4", best_of(4)),
            ("best-of-16", best_of(16)),
            ("fk_steering 16", particles(16)),
            ("fk_steering 64", particles(64)),
        ):
            samples = np.asarray(jax.jit(jax.vmap(draw))(keys))
            scores = [round(float(x), 4) for x in score(samples, truth)]
            rows.append([label, name, inverse, *scores])
    return rows


class Table:
    """W1 as an array: [estimator and schedule, solver, problem and temperature, weight]."""

    def __init__(self, rows, plain):
        gaps = np.array([row[2] for row in plain])
        shape = (len(pairs()), len(SOLVERS), len(gaps), len(MULTIPLIERS))
        w1 = np.array(list(rows.values()))[..., 0].reshape(shape)
        self.values = w1 / gaps[None, None, :, None]

    def left(self, pair, solver, multiplier=None):
        """The share of the plain flow's distance that is left, a mean over the cases; at the best
        common multiplier if none is given, which is then returned too."""
        values = self.values[pairs().index(pair), list(SOLVERS).index(solver)]
        values = np.minimum(values, 3)  # one divergence must not hide all the rest
        means = values.mean(axis=0)
        k = int(means.argmin()) if multiplier is None else MULTIPLIERS.index(multiplier)
        return means[k], MULTIPLIERS[k]


def tables(results):
    """What the docs show, in Markdown."""
    table = Table(results["rows"], results["plain"])
    lines = ["| estimator | schedule | weight = 1/temperature | best multiple | with it |"]
    lines += ["|---|---|---|---|---|"]
    for pair in pairs():
        calibrated, _ = table.left(pair, "Euler 10", 1.0)
        tuned, multiple = table.left(pair, "Euler 10")
        lines.append(f"| `{pair[0]}` | {pair[1]} | {calibrated:.2f} | {multiple:g} | {tuned:.2f} |")
    lines += ["", "| solver | " + " | ".join(f"`{n}`" for n in SHOWN) + " |"]
    lines += ["|---" * (len(SHOWN) + 1) + "|"]
    for solver in SOLVERS:
        cells = [table.left(pair, solver, m)[0] for pair, m in SHOWN.values()]
        lines.append(f"| {solver} | " + " | ".join(f"{x:.2f}" for x in cells) + " |")
    lines += ["", "| values only | left |", "|---|---|"]
    gap = {tuple(r[:2]): r[2] for r in results["plain"]}
    for label in dict.fromkeys(r[0] for r in results["others"]):
        shares = [min(r[3] / gap[tuple(r[1:3])], 3) for r in results["others"] if r[0] == label]
        lines.append(f"| {label} | {np.mean(shares):.2f} |")
    return "\n".join(lines)


SHOWN = {
    "qgf, constant, .2": (("qgf", "constant"), 0.2),
    "qgf, (1-t), .5": (("qgf", "(1-t)"), 0.5),
    "qgf_jacobian, (1-t)/t": (("qgf_jacobian", "(1-t)/t, at most 5"), 1.0),
    "curvature": (("curvature", "constant"), 1.0),
    "monte_carlo, Gaussian covariance": (("monte_carlo", "Gaussian covariance"), 1.0),
}


def figure(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = Table(results["rows"], results["plain"])
    schedules = ("constant", "(1-t)", "Gaussian covariance")
    size = (4 * len(schedules), 3.6)
    drawn, panels = pyplot.subplots(1, 3, figsize=size, layout="constrained", sharey=True)
    for axes, schedule in zip(panels, schedules, strict=True):
        for name in NAMES:
            pair = (name, schedule if name != "curvature" else "constant")
            shares = [table.left(pair, "Euler 10", m)[0] for m in MULTIPLIERS]
            style = "--" if name == "curvature" else "-"
            axes.plot(MULTIPLIERS, shares, style, marker="o", markersize=3, label=name)
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(xscale="log", title=schedule, xlabel="weight x temperature", ylim=(0, 2))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("distance to the tilted law that is left\n(1: the plain flow)")
    panels[-1].legend(fontsize=8, frameon=False)
    pyplot.rcParams["svg.hashsalt"] = "closed form"
    drawn.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", action="store_true", help="only print, from the results file")
    path = HERE / "results" / "closed_form.json"
    if parser.parse_args().tables:
        results = json.loads(path.read_text())
    else:
        rows, plain, values_only = run()
        results = {"rows": rows, "plain": plain, "others": values_only, "samples": SAMPLES}
        results |= {
            "order of rows": "problems, then inverse temperatures, then multipliers",
            "scores": ["W1", "total variation on bins of 0.2", "total variation of modes"],
            "problems": list(PROBLEMS),
            "inverse temperatures": INVERSE_TEMPERATURES,
            "multipliers": MULTIPLIERS,
            "versions": versions(),
            "machine": machine(),
        }
        path.write_text(json.dumps(results))
    figure(results, HERE.parent / "docs" / "images" / "closed_form.svg")
    print(tables(results))


if __name__ == "__main__":
    main()

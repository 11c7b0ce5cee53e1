"""How near does guidance come to the law it aims at, where that law is known exactly?

For a Gaussian mixture and `Q = -(a - best)^2` the tilted law `p(a) exp(Q / temperature)` is again a
mixture. Every estimator and schedule is scored against it on 100 randomly drawn layouts, a few of
them with other solvers too: by the Wasserstein-1 distance, and by the error of the modes' masses.
The noises are quantiles, so that only the layouts are random.

    python -m benchmarks.studies.closed_form

Writes `benchmarks/results/closed_form.json` (a setting at a time, and one that is there is not run
again: delete the file to start over), draws `docs/images/closed_form.svg`, and prints the tables of
docs/estimators.md.
"""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy import stats
from tqdm import tqdm

from qgf_eqx import best, guidance, guided_flow, guided_solve
from qgf_eqx._files import write_atomically
from qgf_eqx._provenance import machine, versions
from qgf_eqx._types import Guidance
from qgf_eqx.analytic import MixtureFlow
from qgf_eqx.evaluate.names import colour, estimator_of, label
from qgf_eqx.steering import fk_steering
from qgf_eqx.weights import CappedRatio, GaussianCovariance, LinearDecay, LinearGrowth

from .. import IMAGES, RESULTS

LAYOUTS, SAMPLES, MODES = 100, 500, 4
MULTIPLIERS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0)
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
# With every solver, at a multiple of 1 / temperature.
SHOWN = (
    (("qgf", "constant"), 0.5),
    (("qgf", "(1-t)"), 1.0),
    (("qgf-jacobian", "(1-t)/t, at most 5"), 1.0),
    (("curvature", "constant"), 1.0),
    (("monte-carlo", "Gaussian covariance"), 1.0),
)
ESTIMATORS = (
    "ood",
    "qgf",
    "qgf-jacobian",
    "look-ahead-2",
    "qgf-chain",
    "bptt",
    "monte-carlo",
    "curvature",
)
VALUES_ONLY = ("best-of-4", "best-of-16", "fk_steering 16", "fk_steering 64")
REFERENCE = ("qgf", "constant")

Pair = tuple[str, str]
"""An estimator and a schedule."""
Results = dict[str, Any]


class Layout(NamedTuple):
    """A flow, a critic that likes `best`, and 1 / temperature."""

    means: np.ndarray
    stds: np.ndarray
    weights: np.ndarray
    best: float
    inverse: float

    def flow(self) -> MixtureFlow:
        return MixtureFlow(*(jnp.asarray(x, jnp.float32) for x in self[:3]))

    def tilted(self) -> MixtureFlow:
        return self.flow().tilted(jnp.array(2 * self.best * self.inverse), 2 * self.inverse)


def draw_layout(rng: np.random.Generator) -> Layout:
    """Two to four modes between -4 and 4; the last is repeated, so that all have one shape."""
    modes = rng.integers(2, MODES + 1)
    means = np.sort(rng.uniform(-4, 4, modes))
    stds = np.exp(rng.uniform(np.log(0.1), 0, modes))
    weights = rng.dirichlet(np.full(modes, 2.0))
    where = np.minimum(np.arange(MODES), modes - 1)
    copies = np.bincount(where)[where]
    target = rng.uniform(means[0] - 1, means[-1] + 1)
    inverse = np.exp(rng.uniform(np.log(0.1), np.log(3)))
    return Layout(means[where], stds[where], weights[where] / copies, target, inverse)


@cache
def layouts() -> tuple[Layout, ...]:
    """Seeded; those that Q moves by less than a tenth of the flow's deviation are left out."""
    rng, found = np.random.default_rng(0), []
    while len(found) < LAYOUTS:
        layout = draw_layout(rng)
        moved = np.abs(quantiles(layout.flow())[0] - quantiles(layout.tilted())[0]).mean()
        if moved > 0.1 * overall_std(layout):
            found.append(layout)
    return tuple(found)


def overall_std(layout: Layout) -> float:
    p, means = layout.weights, layout.means
    return float(np.sqrt(p @ (layout.stds**2 + means**2) - (p @ means) ** 2))


LEVELS = (np.arange(SAMPLES) + 0.5) / SAMPLES


def quantiles(flow: MixtureFlow) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Of a mixture, with its distribution function on a grid."""
    means, stds, p = (np.asarray(x, float) for x in (flow.means, flow.stds, flow.weights))
    grid = np.linspace((means - 9 * stds).min(), (means + 9 * stds).max(), 20_001)
    cdf = stats.norm.cdf(grid[:, None], means, stds) @ p
    return np.interp(LEVELS, cdf, grid), (grid, cdf)


class Truth:
    """A law, with what `score` compares samples with: quantiles, and masses of the modes."""

    def __init__(self, law: MixtureFlow, centres: np.ndarray) -> None:
        self.quantiles, (grid, cdf) = quantiles(law)
        self.borders = [-np.inf, *(centres[1:] + centres[:-1]) / 2, np.inf]
        self.masses = np.diff(np.interp(self.borders, grid, cdf, left=0, right=1))


def score(samples: np.ndarray, truth: Truth) -> list[float]:
    """W1, and total variation of the masses of the modes."""
    samples = np.where(np.isfinite(samples), np.clip(samples, -50, 50), 50)
    w1 = np.mean(np.abs(np.sort(samples) - truth.quantiles))
    masses = np.histogram(samples, truth.borders)[0] / len(samples)
    return [round(float(x), 4) for x in (w1, np.abs(masses - truth.masses).sum() / 2)]


def estimator(name: str, steps: int, temperature: Any, std: Any) -> Guidance:
    """That of the table; two are told what they may know, the temperature and the data's
    deviation.
    """
    if name == "monte-carlo":
        posterior = eqx.Partial(guidance.posterior_std, data_std=std)
        options = {"samples": 64, "std": posterior, "temperature": temperature}
        return eqx.Partial(guidance.monte_carlo, key=jax.random.key(0), **options)
    if name == "curvature":
        return eqx.Partial(guidance.curvature, temperature=temperature, iterations=1)
    return estimator_of(name, steps=steps)


def pairs() -> list[Pair]:
    """Estimator and schedule; the curvature estimator has its schedule inside."""
    return [(e, s) for e in ESTIMATORS for s in SCHEDULES if e != "curvature" or s == "constant"]


def settings() -> list[tuple[str, ...]]:
    """All pairs with ten Euler steps, those that are shown with every solver, and values only."""
    found: list[tuple[str, ...]] = [(*pair, "Euler 10") for pair in pairs()]
    found += [(*pair, solver) for pair, _ in SHOWN for solver in SOLVERS]
    return list(dict.fromkeys(found)) + [(name,) for name in VALUES_ONLY]


def guided_draw(name: str, schedule: str, solver: str) -> Callable:
    """Samples of every multiplier, from the quantiles of the noise."""
    steps, method = SOLVERS[solver]
    noises = jnp.asarray(stats.norm.ppf(LEVELS), jnp.float32)

    def draw(flow, critic, inverse, std):
        estimate = estimator(name, steps, 1 / inverse, std)

        def one(multiplier, noise):
            weight = SCHEDULES[schedule](multiplier * inverse, std)
            options = {"guidance": estimate, "weight": weight, "steps": steps}
            if method is None:
                return guided_flow(flow, critic, None, noise, **options)
            return guided_solve(flow, critic, None, noise, solver=method, **options)

        return jax.vmap(lambda m: jax.vmap(lambda n: one(m, n))(noises))(jnp.array(MULTIPLIERS))

    return draw


def values_only_draw(setting: str) -> Callable:
    """Best-of-N and particles, at 20 steps and random noises."""
    name, n = setting.replace("best-of-", "best-of ").split()
    keys = jax.random.split(jax.random.key(0), SAMPLES)

    def draw(flow, critic, inverse, std):
        def best_of(key):
            walk = lambda a: guided_flow(flow, critic, None, a, weight=0, steps=20)  # noqa: E731
            return best(critic, None, jax.vmap(walk)(jax.random.normal(key, (int(n),))))

        def particles(key):
            options = {"particles": int(n), "temperature": 1 / inverse, "steps": 20}
            return fk_steering(flow, critic, None, key, **options)

        return jax.vmap(best_of if name == "best-of" else particles)(keys)[None]

    return draw


@partial(jax.jit, static_argnums=0)
def draw_all(draw: Callable, stacked: Layout, stds: Array) -> Array:
    """On all layouts, one at a time: `[layout, multiplier, sample]`."""

    def one(layout_and_std):
        layout, std = layout_and_std
        critic = lambda _, a: -((a - layout.best) ** 2)  # noqa: E731
        return draw(MixtureFlow(*layout[:3]), critic, layout.inverse, std)

    return jax.lax.map(one, (stacked, stds))


def run(path: Path) -> Results:
    """Every setting that is not in the file, which is written after each."""
    drawn = layouts()
    described = [{k: np.round(v, 4).tolist() for k, v in x._asdict().items()} for x in drawn]
    truths = [Truth(x.tilted(), np.unique(x.means)) for x in drawn]
    results = {
        "scores": ["W1", "total variation of modes"],
        "samples": SAMPLES,
        "multipliers": list(MULTIPLIERS),
        "layouts": described,
        "plain": [score(quantiles(x.flow())[0], t) for x, t in zip(drawn, truths, strict=True)],
    }
    before = json.loads(path.read_text()) if path.exists() else {}
    same = all(before.get(name) == part for name, part in results.items())
    results |= {"rows": before["rows"] if same else {}}
    to_jax = lambda *x: jnp.asarray(np.stack(x), jnp.float32)  # noqa: E731
    stacked, stds = jax.tree.map(to_jax, *drawn), to_jax(*map(overall_std, drawn))
    for setting in tqdm(settings(), unit=" settings", disable=None):
        key = " | ".join(setting)
        if key not in results["rows"]:
            draw = guided_draw(*setting) if len(setting) > 1 else values_only_draw(*setting)
            samples = np.asarray(draw_all(draw, stacked, stds))
            results["rows"][key] = [
                [score(x, truth) for x in by_multiplier]
                for by_multiplier, truth in zip(samples, truths, strict=True)
            ]
            with write_atomically(path) as file:
                made = {"versions": versions(), "machine": machine()}
                file.write(json.dumps(results | made).encode())
    return results


class Left:
    """The share of the plain flow's W1 that is left, of each layout; of a divergence at most 3."""

    def __init__(self, results: Results) -> None:
        self.rows = results["rows"]
        self.gaps = np.array(results["plain"])[:, 0]

    def shares(self, *setting: str) -> np.ndarray:
        """`[layout, multiplier]`."""
        w1 = np.array(self.rows[" | ".join(setting)])[..., 0]
        return np.minimum(w1 / self.gaps[:, None], 3)

    def at(self, pair: Pair, multiplier: float, solver: str = "Euler 10") -> np.ndarray:
        """At a multiple of 1 / temperature, of each layout."""
        return self.shares(*pair, solver)[:, MULTIPLIERS.index(multiplier)]

    def tuned(self, pair: Pair) -> tuple[np.ndarray, float]:
        """At the multiple that is best on one half of the layouts, of the other half, and the other
        way round; and the multiple that is best on all.
        """
        shares = self.shares(*pair, "Euler 10")
        found = np.empty(len(shares))
        for half in (slice(0, None, 2), slice(1, None, 2)):
            other = (shares.sum(axis=0) - shares[half].sum(axis=0)).argmin()
            found[half] = shares[half, other]
        return found, MULTIPLIERS[shares.mean(axis=0).argmin()]


def mean_and_error(values: np.ndarray, sign: str = "") -> str:
    return f"{values.mean():{sign}.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def tables(results: Results) -> str:
    """What the docs show, in Markdown."""
    left = Left(results)
    reference, _ = left.tuned(REFERENCE)
    head = ("estimator", "schedule", "at 1/temperature", "best multiple", "at the best multiple")
    lines = [f"| {' | '.join(head)} | minus QGF, constant |", "|---" * 6 + "|"]
    for pair in pairs():
        tuned, multiple = left.tuned(pair)
        cells = [label(pair[0]), pair[1], mean_and_error(left.at(pair, 1.0)), f"{multiple:g}"]
        apart = "" if pair == REFERENCE else mean_and_error(tuned - reference, "+")
        lines.append(f"| {' | '.join([*cells, mean_and_error(tuned), apart])} |")
    heads = [f"{label(e)}, {s}{f', {m:g}' if m != 1 else ''}" for (e, s), m in SHOWN]
    lines += ["", "| solver | " + " | ".join(heads) + " |"]
    lines += ["|---" * (len(SHOWN) + 1) + "|"]
    for solver in SOLVERS:
        cells = [mean_and_error(left.at(pair, m, solver)) for pair, m in SHOWN]
        lines.append(f"| {' | '.join([solver, *cells])} |")
    lines += ["", "| values only | left |", "|---|---|"]
    lines += [f"| {n} | {mean_and_error(left.shares(n)[:, 0])} |" for n in VALUES_ONLY]
    return "\n".join(lines)


def figure(results: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    left = Left(results)
    schedules = ("constant", "(1-t)", "Gaussian covariance")
    size = (4 * len(schedules), 3.6)
    drawn, panels = pyplot.subplots(1, 3, figsize=size, layout="constrained", sharey=True)
    for axes, schedule in zip(panels, schedules, strict=True):
        for name in ESTIMATORS:
            pair = (name, schedule if name != "curvature" else "constant")
            shares = left.shares(*pair, "Euler 10")
            error = shares.std(axis=0, ddof=1) / len(shares) ** 0.5
            style = "--" if name == "curvature" else "-"
            options = {"marker": "o", "markersize": 3, "elinewidth": 0.7, "label": label(name)}
            options["color"] = colour(name)
            axes.errorbar(MULTIPLIERS, shares.mean(axis=0), error, linestyle=style, **options)
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(xscale="log", title=schedule, xlabel="weight x temperature", ylim=(0, 2))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("distance to the tilted law that is left\n(1: the plain flow)")
    panels[0].legend(fontsize=8, frameon=False, loc="upper left")
    pyplot.rcParams["svg.hashsalt"] = "closed form"
    drawn.savefig(path, metadata={"Date": None})


def main() -> None:
    results = run(RESULTS / "closed_form.json")
    figure(results, IMAGES / "closed_form.svg")
    print(tables(results))


if __name__ == "__main__":
    main()

// qgf_eqx in one dimension: MixtureFlow, the estimators, the schedules and guided_flow, step for
// step as in the library (tests/test_live.py holds the two together to 1e-9). No DOM.
// The critic is Q(a) = -(a - target)^2.

export const mixture = (means, std) => ({ means, std, weights: means.map(() => 1 / means.length) });

// The log densities of the modes at (a, t), but for their common factor.
const logJoint = ({ means, weights }, a, t, variance) =>
  means.map((mean, i) => Math.log(weights[i]) - (a - t * mean) ** 2 / (2 * variance));

const softmax = (logs) => {
  const top = Math.max(...logs);
  const parts = logs.map((log) => Math.exp(log - top));
  const sum = parts.reduce((x, y) => x + y);
  return parts.map((part) => part / sum);
};

/** The exact velocity at (a, t), and its derivative in a. */
export function velocity(flow, a, t) {
  const variance = (1 - t) ** 2 + (t * flow.std) ** 2;
  const posterior = softmax(logJoint(flow, a, t, variance));
  const gain = (t * flow.std ** 2 - (1 - t)) / variance;
  let [v, score, pull] = [0, 0, 0];
  posterior.forEach((p, i) => {
    const offset = a - t * flow.means[i];
    const own = flow.means[i] + gain * offset;
    v += p * own;
    score -= (p * offset) / variance;
    pull -= (p * own * offset) / variance;
  });
  return [v, gain + pull - score * v];
}

/** `count` equal Euler steps from (a, t) to time 1: the end, and its derivative in a. */
export function walk(flow, a, t, count) {
  let jacobian = 1;
  for (let k = 0; k < count; k++) {
    const [v, slope] = velocity(flow, a, t + ((1 - t) * k) / count);
    a += ((1 - t) / count) * v;
    jacobian *= 1 + ((1 - t) / count) * slope;
  }
  return [a, jacobian];
}

// A point on the grid may miss it by rounding: that must not cost a step more.
const remaining = (t, steps) => Math.max(Math.ceil((1 - t) * steps - 1e-3), 1);

// How many steps ahead the critic is asked, and whether its answer comes back by the exact J.
const asked = (count, exact) => (flow, target, a, t, steps) => {
  const [end, jacobian] = walk(flow, a, t, count(t, steps));
  return -2 * (end - target) * (exact ? jacobian : 1);
};

// By the names of qgf_eqx.evaluate.names.
export const guidance = {
  flow: () => 0,
  ood: asked(() => 0, false),
  qgf: asked(() => 1, false),
  "qgf-jacobian": asked(() => 1, true),
  "look-ahead-2": asked(() => 2, false),
  "qgf-chain": asked(remaining, false),
  bptt: asked(remaining, true),
};

export const schedules = {
  constant: (weight) => weight,
  decay: (weight, t) => weight * (1 - t),
  matched: (share, t, v, g) => (g === 0 ? 0 : (share * Math.abs(v)) / Math.abs(g)),
};

/** The way of one particle from `noise` to its action: `steps + 1` points. */
export function guidedFlow(flow, target, noise, { method, schedule, weight, steps }) {
  const path = [noise];
  for (let k = 0; k < steps; k++) {
    const [a, t] = [path[k], k / steps];
    const [v] = velocity(flow, a, t);
    const g = guidance[method](flow, target, a, t, steps);
    path.push(a + (v + schedules[schedule](weight, t, v, g) * g) / steps);
  }
  return path;
}

/** The density of the data. */
export const density = (flow, a) =>
  logJoint(flow, a, 1, flow.std ** 2).reduce((sum, log) => sum + Math.exp(log), 0) /
  Math.sqrt(2 * Math.PI * flow.std ** 2);

/** The mixture that is p(a) exp(weight Q(a)). */
export function tilted({ means, std, weights }, target, weight) {
  const precision = std ** -2;
  const variance = 1 / (precision + 2 * weight);
  const moved = means.map((mean) => variance * (precision * mean + 2 * weight * target));
  const mass = means.map(
    (mean, i) => Math.log(weights[i]) + (moved[i] ** 2 / variance - mean ** 2 * precision) / 2,
  );
  return { means: moved, std: Math.sqrt(variance), weights: softmax(mass) };
}

/** The quantiles (i + 1/2) / count of the data. */
export function quantiles(flow, count) {
  const start = Math.min(...flow.means) - 8 * flow.std;
  const step = flow.std / 20;
  const found = [];
  for (let a = start, mass = 0; found.length < count; a += step) {
    const more = step * density(flow, a + step / 2);
    while (found.length < count && mass + more >= (found.length + 0.5) / count) {
      found.push(a + (step * ((found.length + 0.5) / count - mass)) / more);
    }
    mass += more;
  }
  return found;
}

/** Wasserstein-1 between a sample and as many quantiles of a law. */
export const distance = (sample, law) =>
  [...sample].sort((x, y) => x - y).reduce((sum, a, i) => sum + Math.abs(a - law[i]), 0) / law.length;

/** Normal noises, the same at every visit: mulberry32 and Box-Muller. */
export function noises(count, seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

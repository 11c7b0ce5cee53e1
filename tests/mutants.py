"""Are the tests any good? Breaks the code in one place at a time, and runs the tests on the copy.

    python tests/mutants.py [NUMBER ...]

A mutant that no test notices survives; it is printed, and the exit code is 1 if more than one in
twenty does. Not part of the suite: it takes a while.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORE = [
    "tests/test_guidance.py",
    "tests/test_sample.py",
    "tests/test_denoise.py",
    "tests/test_fields.py",
]
GUIDE = ["tests/test_guidance.py"]
STEER = ["tests/test_steering.py"]
LEARN = ["tests/test_objectives.py", "tests/test_nn.py", "tests/test_train.py"]
DATA = ["tests/datasets"]

# (file, what it says, what it should not say, the tests that should notice)
MUTANTS = [
    ("_denoise.py", "a_t + (1 - t) * velocity", "a_t + t * velocity", CORE),
    ("_denoise.py", "np.maximum)\n", "np.maximum)\n    steps = steps + 1\n", CORE),
    ("_sample.py", "jnp.where((w == 0) & ~jnp.isfinite(g), 0, g)", "g", CORE),
    ("_sample.py", "v + w * jnp.where", "v - w * jnp.where", CORE),
    ("_sample.py", "np.arange(steps) / steps", "(np.arange(steps) + 1) / steps", CORE),
    ("_sample.py", "jnp.argmax(", "jnp.argmin(", CORE),
    ("_sample.py", "fold_in(key, i), _action_shape", "fold_in(key, i + 1), _action_shape", CORE),
    ("_sample.py", "jax.random.normal(jax.random.fold_in(key, i), _action_shape(policy, critic))", "jax.random.normal(jax.random.key(0), _action_shape(policy, critic))", CORE),
    ("_sample.py", "return critic.to_bounds(action) if", "return action if", CORE),
    ("_fields.py", "self.critic(obs, self.clip(action, *self._bounds(action)))", "self.critic(obs, action)", CORE),
    ("_fields.py", "tangents[0]", "0 * tangents[0]", CORE),
    ("guidance.py", "return action_gradient(critic, obs, one_step(policy, obs, a_t, t))", "return action_gradient(critic, obs, a_t)", CORE),
    ("guidance.py", "lambda a: one_step(policy, obs, a, t), a_t", "lambda a: a + (1 - t) * jax.lax.stop_gradient(one_step(policy, obs, a, t)), a_t", CORE),
    ("nn.py", "reduce: Callable[[Float[Array, \" size\"]], Scalar] = jnp.min", "reduce: Callable[[Float[Array, \" size\"]], Scalar] = jnp.mean", LEARN),
    ("nn.py", "[k < depth - 1 for k in range(depth)]", "[True] * depth", LEARN),
    ("nn.py", "eps=1e-6", "eps=1e-2", LEARN),
    ("objectives.py", "jnp.where(difference < 0, 1 - tau, tau)", "jnp.where(difference < 0, tau, 1 - tau)", LEARN),
    ("objectives.py", "(1 - t) * noise + t * action", "t * noise + (1 - t) * action", LEARN),
    ("objectives.py", "(1 - rate) * old + rate * new", "rate * old + (1 - rate) * new", LEARN),
    ("train.py", "iql_value(value, target,", "iql_value(value, critic,", LEARN),
    ("train.py", "chunk.weight * loss", "loss", LEARN),
    ("train.py", "objectives.polyak(target, critic, config.ema_rate)", "objectives.polyak(target, nets.critic, config.ema_rate)", LEARN),
    ("train.py", "jax.random.key(config.seed + 2**31), state.step", "jax.random.key(config.seed + 2**31), 0", LEARN),
    ("datasets/_chunks.py", "gamma ** len(rows.rewards)", "gamma", DATA),
    ("datasets/_chunks.py", "jnp.min(rows.masks)", "rows.masks[0]", DATA),
    ("datasets/_chunks.py", "jnp.all(rows.terminals == 0)", "jnp.all(rows.terminals[:-1] == 0)", DATA),
    ("datasets/_chunks.py", "jax.random.fold_in(jax.random.key(seed), step)", "jax.random.key(seed)", DATA),
    ("datasets/_load.py", "dtype.hasobject or dtype.kind not in \"fiub\"", "False", DATA),
    ("datasets/_load.py", "not np.isfinite(numbers).all()", "False", DATA),
    ("datasets/_load.py", "intact = _sha256(file) == expected[\"sha256\"]", "pass", DATA),
    ("checkpoint.py", "intact = claimed == _digest(arrays, header)", "intact = True", ["tests/test_checkpoint.py"]),
    ("checkpoint.py", "if header[\"structure\"] != _structure(like):", "if False:", ["tests/test_checkpoint.py"]),
    ("evaluate.py", "jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), count)", "jax.random.fold_in(jax.random.key(seed), number)", ["tests/test_evaluate.py"]),
    ("evaluate.py", "seed_everything(env, seed, number)", "seed_everything(env, seed, 0)", ["tests/test_evaluate.py"]),
    ("evaluate.py", "self.success or bool(info[\"success\"])", "bool(info[\"success\"]) or self.length > 3", ["tests/test_evaluate.py"]),
    ("guidance.py", "(1 - t) ** 2 / t * carry_back", "(1 - t) / t * carry_back", GUIDE),
    ("guidance.py", "residual - length * image", "residual + length * image", GUIDE),
    ("guidance.py", "(left @ right).T @ g", "(left @ right) @ g", GUIDE),
    ("guidance.py", "jnp.exp(-kappa * spread)", "jnp.exp(kappa * spread)", GUIDE),
    ("guidance.py", "(1 - shrinkage) * carry_back(g)[0] + shrinkage * g", "carry_back(g)[0]", GUIDE),
    ("guidance.py", "temperature * jax.nn.logsumexp", "jax.nn.logsumexp", GUIDE),
    ("weights.py", "self.largest / jnp.where(norm == 0, 1, norm)", "self.largest", ["tests/test_weights.py"]),
    ("weights.py", "weight_at(self.weight, t, v, g) * self.mask", "self.mask", ["tests/test_weights.py"]),
    ("steering.py", "value - jnp.where(jnp.isinf(before), 0, before)", "value", STEER),
    ("steering.py", "jnp.where(few, 0, log_weight)", "log_weight", STEER),
    ("steering.py", "jnp.maximum(1 - kept**2, 0)", "jnp.maximum(1 - kept, 0)", STEER),
    ("steering.py", "mask * (self.chunk - action)", "self.chunk - action", STEER),
    ("steering.py", "plain + self.weight * (better - plain)", "better + self.weight * (better - plain)", STEER),
    ("steering.py", "jnp.concatenate([guided, plain])", "guided", STEER),
    ("likelihood.py", "_log_normal(noise) + integral", "_log_normal(noise) - integral", ["tests/test_likelihood.py"]),
    ("likelihood.py", "_log_normal(noise) - integral", "_log_normal(noise) + integral", ["tests/test_likelihood.py"]),
    ("analysis.py", "_norm(push) / _norm(v)", "_norm(g) / _norm(v)", ["tests/test_analysis.py"]),
    ("analysis.py", "weights[within[-1]]", "weights[within[0]]", ["tests/test_analysis.py"]),
    ("flops.py", "eqn.params[\"length\"] * each", "each", ["tests/test_flops.py"]),
    ("flops.py", "tuple(reads)), node)", "tuple(reads), id(node)), node)", ["tests/test_flops.py"]),
    ("analysis.py", "a_t + std * jax", "a_t - 2 * std * jax", ["tests/test_analysis.py"]),
    ("analysis.py", "jnp.sqrt(jnp.min(jnp.mean(", "jnp.sqrt(jnp.max(jnp.mean(", ["tests/test_analysis.py"]),
    ("analysis.py", "value_of(judge, obs", "value_of(critic, obs", ["tests/test_analysis.py"]),
    ("_jit_sampler.py", "obs, draw, **options), key", "obs, draw, **options), draw", ["tests/test_jit_sampler.py"]),
    ("evaluate.py", "match[1] or \"flow\"", "\"flow\"", ["tests/test_evaluate.py"]),
    ("evaluate.py", "weight, best_of, steps)", "weight, 1, steps)", ["tests/test_evaluate.py"]),
    ("nn.py", "centre - self.rho", "centre + self.rho", LEARN),
    ("objectives.py", "jnp.expm1(difference) - difference", "jnp.expm1(-difference) + difference", LEARN),
    ("objectives.py", "better * error(1) + share", "error(1) + share", LEARN),
    ("analysis.py", "(plain - plain.mean(0)[None]) ** 2", "plain ** 2", ["tests/test_analysis.py"]),
    ("analysis.py", "jnp.mean(spread) / jnp.mean(slope)", "jnp.mean(spread) * jnp.mean(slope)", ["tests/test_analysis.py"]),
    ("analysis.py", "elif moved > strong * own", "elif moved > 100 * strong * own", ["tests/test_analysis.py"]),
    ("_fields.py", "np.asarray(low) < np.asarray(high)", "np.asarray(low) <= np.asarray(high)", ["tests/test_fields.py"]),
    ("_fields.py", "tuple(map(operator.index, shape))", "tuple(shape)", ["tests/test_fields.py"]),
    ("_jit_sampler.py", "        check_key(key)  #", "        #", ["tests/test_jit_sampler.py"]),
]  # fmt: skip


def killed(number: int) -> bool:
    file, right, wrong, tests = MUTANTS[number]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".git", ".venv", "runs", "data", "site", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignored)
        path = copy / "qgf_eqx" / file
        text = path.read_text()
        if text.count(right) < 1:
            raise SystemExit(f"mutant {number}: `{right}` is no longer in {file}")
        path.write_text(text.replace(right, wrong, 1))
        # `python -m pytest` puts the copy first on the path, before the installed package.
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            *tests,
        ]
        return subprocess.run(command, cwd=copy, capture_output=True).returncode == 1


def main():
    numbers = [int(n) for n in sys.argv[1:]] or range(len(MUTANTS))
    survivors = []
    for number in numbers:
        dead = killed(number)
        if not dead:
            survivors.append(number)
        file, _, wrong, _ = MUTANTS[number]
        print(f"{number:3d} {'killed' if dead else 'SURVIVED'}  {file}: {wrong!r}", flush=True)
    print(f"{len(numbers) - len(survivors)} of {len(numbers)} mutants killed")
    sys.exit(len(survivors) > 0.05 * len(numbers))


if __name__ == "__main__":
    main()

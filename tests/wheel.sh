#!/usr/bin/env bash
# Installs the wheel and the sdist of a folder, each in a fresh environment, and draws an action.
set -euo pipefail
python=${PYTHON:-python3}
for file in "$1"/*.whl "$1"/*.tar.gz; do
    folder=$(mktemp -d)
    "$python" -m venv "$folder"
    "$folder/bin/pip" install -q "$file"
    (cd "$folder" && bin/python - <<'PY'
import importlib.metadata
import jax
import qgf_eqx

policy = qgf_eqx.analytic.MixtureFlow(means=jax.numpy.array([1.0, 3.0, 5.0]), stds=0.1)
action = qgf_eqx.sample(policy, lambda obs, a: -((a - 3.0) ** 2), None, jax.random.key(0), weight=1.0)
assert 0 < action < 6, action
files = [str(file) for file in importlib.metadata.files("qgf_eqx")]
assert any(file.endswith("py.typed") for file in files), "py.typed is missing"
assert any(file.endswith("presets.toml") for file in files), "presets.toml is missing"
PY
    )
    rm -r "$folder"
    echo "$(basename "$file"): installed, and it draws an action"
done

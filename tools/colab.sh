#!/usr/bin/env bash
# Runs all notebooks inside Colab's runtime image, as a reader there would: the package is installed
# into what the image brings, which must leave torch and numpy as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
brought() { python3 -m pip list --format=freeze | grep -E '^(torch|numpy)=='; }

before="$(brought)"
echo "the image brings: $before"
python3 -m pip install -q .
after="$(brought)"
if [ "$before" != "$after" ]; then
    printf 'installing the package changed what Colab brings:\n%s\n' "$after" >&2
    exit 1
fi

python3 -m pip install -q pytest nbval
python3 -m qtools.cli data
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=""
# The kernels start in book/, so they import the installed package, not the folder ./qtools.
python3 -m pytest -p no:cacheprovider --nbval-lax --nbval-current-env \
    --nbval-cell-timeout=300 --nbval-sanitize-with tests/notebooks/sanitize.cfg \
    book/[0-9][0-9]_*.ipynb

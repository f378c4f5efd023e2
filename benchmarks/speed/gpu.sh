#!/bin/sh
# Everything of benchmarks/speed on a CUDA device, with and without the Triton kernels, and the fast preset's networks;
# then the tables and the plot. Run from the repository's root; the results go to benchmarks/speed/gpu-*.json.
set -eu
PATH=".venv/bin:$PATH"
results=benchmarks/speed
for backend in triton torch; do
    IRIS_KERNELS_BACKEND=$backend python $results/run.py --device cuda --output $results/gpu-$backend.json
done
python $results/run.py --device cuda --config configs/atari100k/fast.yaml --output $results/gpu-fast.json
python $results/report.py

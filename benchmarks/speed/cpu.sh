#!/bin/sh
# Everything of benchmarks/speed on two free CPU cores: the table, the fast preset's, the roll-outs without the C kernels
# and with the stock allocator; then the tables and the plot. About a quarter of an hour. Run from the repository's root.
set -eu
PATH=".venv/bin:$PATH"
results=benchmarks/speed
iris-wm benchmark speed --device cpu --output $results/cpu.json
iris-wm benchmark speed --device cpu --config configs/atari100k/fast.yaml --output $results/cpu-fast.json
some=tokenizer,roll_outs
IRIS_KERNELS_BACKEND=torch iris-wm benchmark speed --device cpu --parts $some --output $results/cpu-torch.json
# Only the command line changes the allocator's settings.
python -c "from iris_wm.benchmark.speed import speed; speed(device='cpu', parts='$some', output='$results/cpu-stock.json')"
python $results/report.py

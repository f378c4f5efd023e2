#!/bin/sh
# Everything of benchmarks/speed on two free CPU cores: the table, the fast preset's, the roll-outs without the C kernels
# and with the stock allocator; then the tables and the plot. About a quarter of an hour. Run from the repository's root.
set -eu
PATH=".venv/bin:$PATH"
results=benchmarks/speed
python $results/run.py --device cpu --output $results/cpu.json
python $results/run.py --device cpu --config configs/atari100k/fast.yaml --output $results/cpu-fast.json
some=tokenizer,roll_outs
IRIS_KERNELS_BACKEND=torch python $results/run.py --device cpu --parts $some --output $results/cpu-torch.json
python $results/run.py --device cpu --parts $some --stock-allocator --output $results/cpu-stock.json
python $results/report.py

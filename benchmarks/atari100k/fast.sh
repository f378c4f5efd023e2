#!/bin/sh
# The fast preset on five games, one seed each: 100,000 steps and 100 evaluation episodes a game, then the report beside
# published scores. Meant for one GPU, under 25 minutes a game. After any interruption the same command goes on.
# SEEDS=3 OUTPUT=FOLDER benchmarks/atari100k/fast.sh --workers 3
set -eu
PATH=".venv/bin:$PATH"
output=${OUTPUT:-runs/atari100k-fast}
iris-wm benchmark atari100k --preset fast --games Pong,Breakout,Boxing,Freeway,Assault --seeds "${SEEDS:-1}" \
    --output "$output" "$@"
iris-wm benchmark report "$output" --methods IRIS,Simulus

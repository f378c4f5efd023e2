#!/bin/sh
# The fast preset on five games, one seed each: 100,000 steps and 100 evaluation episodes a game, then the reports beside
# published scores. Meant for one GPU, under 25 minutes a game. After any interruption the same command goes on.
# SEEDS=3 OUTPUT=FOLDER benchmarks/atari100k/fast.sh --workers 3
set -eu
PATH=".venv/bin:$PATH"
output=${OUTPUT:-runs/atari100k-fast}
bench() {
    folder=$1
    shift
    iris-wm benchmark atari100k --preset fast --seeds "${SEEDS:-1}" --output "$folder" "$@"
    iris-wm benchmark report "$folder" --methods IRIS,Simulus
}
bench "$output" --games Pong,Breakout,Boxing,Assault "$@"
# Random play crosses Freeway's road only if it holds its actions for long, and then once or twice in 1,000 steps: 16,000 of
# them come first, since with 8,000 a small agent in four did not learn (docs/learning.md).
bench "$output-freeway" --games Freeway --override collection.max_action_hold=32 \
    --override policy.optimization.start_after_epoch=15 "$@"

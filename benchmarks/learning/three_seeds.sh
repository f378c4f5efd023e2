#!/bin/sh
# Three seeds of a config, two at a time on one thread each; then the final games, the quality of the dreams, and one
# picture with its JSON. After any interruption the same command goes on.
#
#   benchmarks/learning/three_seeds.sh configs/demo.yaml freeway
#   SEEDS="3 4 5" benchmarks/learning/three_seeds.sh configs/catch.yaml catch
#
# A third and further arguments are overrides of the config.
set -eu
config=$1 name=$2
shift 2
iris=${IRIS_WM:-.venv/bin/iris-wm} python=${PYTHON:-.venv/bin/python}
is_new() { [ "$1" -nt "$run/checkpoints" ]; }  # measured since the run has learned anything
one() {
  run=runs/$name/seed-$1
  shift
  "$iris" fit --config "$config" --run "$run" --seed "${run##*-}" --trainer.num_threads 1 "$@" --quiet
  is_new "$run/result.json" || "$iris" evaluate "$run" --episodes 32
  is_new "$run/dream-quality/quality.json" || "$iris" evaluate-dream "$run" --episodes 4 --starts 64
}
export OMP_NUM_THREADS=1
runs='' earlier=''
for seed in ${SEEDS:-0 1 2}; do
  one "$seed" "$@" & latest=$!
  runs="$runs runs/$name/seed-$seed"
  [ -z "$earlier" ] || wait "$earlier"
  earlier=$latest
done
wait "$earlier"
# shellcheck disable=SC2086
"$python" benchmarks/learning/curves.py $runs --output benchmarks/learning/"$name"

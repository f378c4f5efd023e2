#!/bin/sh
# fast.sh at a small scale on a CPU, killed once without warning on the way: every step of it, in minutes. The scores
# mean nothing, and the report says so.
set -eu
export OUTPUT="${1:-runs/rehearsal}"
small() {
    "$(dirname "$0")/fast.sh" --episodes 1 --workers 2 \
        --override training.num_epochs=17 --override collection.stop_after_epoch=17 \
        --override collection.first_epoch_env_steps=200 --override collection.env_steps_per_epoch=40 \
        --override tokenizer.optimization.first_epoch_steps=2 --override tokenizer.optimization.steps_per_epoch=2 \
        --override tokenizer.optimization.batch_size=8 \
        --override world.optimization.first_epoch_steps=2 --override world.optimization.steps_per_epoch=2 \
        --override world.optimization.batch_size=2 \
        --override policy.optimization.steps_per_epoch=2 --override policy.optimization.batch_size=4 \
        --override training.checkpoint_every_epochs=1 \
        --override evaluation.every_epochs=0 --override evaluation.max_steps=100 --override trainer.num_threads=1
}
echo "Killed after ${KILL_AFTER:-60} seconds:"
(small) & first=$!
sleep "${KILL_AFTER:-60}"
pkill -KILL -f -- "--output $OUTPUT|$OUTPUT.*/runs/" || echo "nothing was running any more"
kill -KILL $first 2>/dev/null || true
wait $first 2>/dev/null || true
echo "The same command again:"
small

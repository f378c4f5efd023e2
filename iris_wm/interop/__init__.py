"""Published checkpoints of other implementations, in and out."""

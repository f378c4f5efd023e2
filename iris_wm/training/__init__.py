"""Training with Lightning: the schedule, the steps of each network, checkpoints and progress."""

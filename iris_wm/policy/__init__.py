"""The policy: an actor-critic and its loss, lambda-returns."""

"""The world: a transformer that predicts the next tokens, the reward and the termination, and its loss."""

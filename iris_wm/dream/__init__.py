"""Acting inside the world: roll-outs to learn from, and dreams as Gymnasium environments."""

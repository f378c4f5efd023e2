"""Acting inside the world model: in tokens, to learn, and as Gymnasium environments."""

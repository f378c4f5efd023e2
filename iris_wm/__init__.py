"""iris_wm: a discrete-token transformer world model, and an agent that learns only in its dreams."""

__version__ = "0.1.0"

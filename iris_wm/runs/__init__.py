"""A run: its config, how far it is, and its folder, opened to look at."""

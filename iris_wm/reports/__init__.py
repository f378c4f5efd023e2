"""Pages for people: of a run, and of how well it dreams."""

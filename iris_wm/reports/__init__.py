"""Pages for people: of a run, of how well it dreams, of a benchmark beside published methods."""

"""Atari 100k as a list of jobs: run them anywhere, and report what came out beside published methods."""

"""Atari 100k as a list of jobs: run them anywhere, and go on where they stopped."""

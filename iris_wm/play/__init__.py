"""The browser page in which a person plays the dream, or watches the agent play it."""

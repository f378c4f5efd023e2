"""How good an agent and its dreams are: evaluation, scores and published figures."""

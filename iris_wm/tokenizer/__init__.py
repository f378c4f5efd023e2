"""Frames to a few discrete tokens and back: the network, its loss and the tokens it has made."""

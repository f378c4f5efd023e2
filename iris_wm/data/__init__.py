"""Episodes, padded batches of their pieces, the replay, and the random streams."""

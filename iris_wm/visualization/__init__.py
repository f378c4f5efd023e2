"""Pictures for people: film strips, videos, tokens, curves, and the page of a run; frames in, images out."""

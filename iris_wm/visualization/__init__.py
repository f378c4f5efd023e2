"""Pictures for people: film strips, videos, tokens, curves; frames and numbers in, images out."""

"""Losses as functions: tensors in, named scalars out."""

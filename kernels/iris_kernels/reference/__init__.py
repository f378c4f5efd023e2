"""The operations in plain PyTorch: what runs on a CPU, and what every kernel is compared with."""

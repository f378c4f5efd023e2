"""The Triton kernels and the functions that launch them; nothing here knows `torch.library`."""

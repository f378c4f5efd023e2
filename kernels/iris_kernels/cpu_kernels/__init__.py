"""C kernels for the CPU, compiled by the machine's own compiler when first used, and the functions that launch them."""

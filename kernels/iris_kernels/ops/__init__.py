"""The operations as `torch.library` custom ops: contract, choice of backend, fake and autograd."""

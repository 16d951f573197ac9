"""Training: forward, loss, gradients and optimiser step of a network as one graph."""

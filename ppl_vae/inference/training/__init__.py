"""Training: `fit`, epochs, steps, optimizers, checkpoints, faults."""

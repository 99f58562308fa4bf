"""Real PyTorch code traced without weights and without a device: what a step holds, moves and computes."""

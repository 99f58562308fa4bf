"""Watching a training run from inside its own process. Only relative imports and the standard library: see ``inside``."""

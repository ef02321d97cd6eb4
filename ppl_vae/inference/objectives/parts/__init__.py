"""Building blocks of objectives: base classes, log weights, KL terms, baselines, path gradients."""

"""Settings, checkpoints, metrics and progress of a run, for both backends."""

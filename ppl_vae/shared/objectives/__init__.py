"""Arguments and arithmetic of objectives, for both backends."""

"""What a run is, shows and leaves behind, for both backends."""

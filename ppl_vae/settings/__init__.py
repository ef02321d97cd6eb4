"""What objectives, measurements and `fit` are told, for both backends: rules, and no arrays."""

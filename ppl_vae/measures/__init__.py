"""What is measured of a trained pair, in numpy: written once, for both backends."""

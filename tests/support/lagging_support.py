"""Helpers for `tests/training/test_lagging.py` and its siblings."""

GUIDES = {
    "vae": {"encoder"},
    "hierarchical": {"encoders"},
    "ladder": {"encoders"},  # p(z_l | z_{l+1}) is shared
    "sbn": {"encoders"},
    "cvae": {"encoder"},
    "vhp": {"encoder", "zeta_encoder"},
    "m2-unlabelled": {"classifier", "encoder"},  # enumerated labels
}

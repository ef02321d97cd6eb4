"""Files of arrays and JSON; untrusted files are read safely."""

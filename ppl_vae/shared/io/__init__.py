"""Files of arrays and JSON, read with distrust."""

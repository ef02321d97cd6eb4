"""Files of arrays and one JSON text: safetensors, written whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

_KEY = "ppl_vae"


def write(path: Path, arrays: Mapping[str, np.ndarray], text: Mapping[str, Any]) -> None:
    """Writes `arrays` and, as JSON in the file's header, `text`.

    The file appears under its name only when it is complete and on the disk, so a kill at any
    moment leaves either the old file or the new one.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(save(contiguous, metadata={_KEY: json.dumps(text)}))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON of a file that `write` made.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or something else wrote it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"path should be a file, was {str(path)!r}, which does not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            text = json.loads((file.metadata() or {})[_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"path should be a whole file written by ppl_vae, was {str(path)!r} ({error})"
        ) from error
    if not isinstance(text, dict):
        raise ValueError(f"path should be a file written by ppl_vae, was {str(path)!r}")
    return arrays, text

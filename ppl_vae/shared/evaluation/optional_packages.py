"""Packages of the optional extra `diagnostics`."""

import warnings
from typing import Any


def arviz() -> Any:
    """Import and return `arviz`.

    Raises:
        ImportError: it is not installed.
    """
    with warnings.catch_warnings():
        # A notice of future releases, shown once a day.
        message = r"\s*ArviZ is undergoing a major refactor"
        warnings.filterwarnings("ignore", message, FutureWarning)
        try:
            import arviz
        except ImportError as error:
            raise ImportError(
                "arviz should be installed for this: pip install 'ppl_vae[diagnostics]'"
            ) from error
    return arviz


def pandas() -> Any:
    """Import and return `pandas`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "pandas should be installed for this: pip install 'ppl_vae[diagnostics]'"
        ) from error
    return pandas

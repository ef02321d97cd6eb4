"""The table of what users hand in by mistake.

`test_bad_input.py` makes each call in Pyro and `test_numpyro_bad_input.py` in the port: it raises
one error, which names the argument, what it should be and what it was.
"""

from bad_calls import Row
from bad_fit import DATA, FIT
from bad_measures import MEASURED, OF_EACH
from bad_models import MODELS, OBJECTIVES

ROWS: dict[str, Row] = {**DATA, **FIT, **OBJECTIVES, **MODELS, **OF_EACH, **MEASURED}
assert len(ROWS) == sum(map(len, (DATA, FIT, OBJECTIVES, MODELS, OF_EACH, MEASURED)))
EXTRAS = {"arviz": ("pareto_k", "to_arviz", "diagnose"), "pandas": ("stats", "gradient", "compare")}


def needs(name: str) -> list[str]:
    """The packages, not always installed, that a row needs."""
    return [package for package, starts in EXTRAS.items() if name.startswith(starts)]

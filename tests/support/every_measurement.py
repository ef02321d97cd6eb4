"""Calls of every measurement with a model and data, as small as they may be."""

from collections.abc import Callable
from typing import Any

from bad_calls import X

SMALL: dict[str, Any] = {"chains": 2, "temperatures": 3, "leapfrog_steps": 1, "adaptation": 2}
MEASURES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "mean_loss": lambda room, model, x: room.mean_loss(model, x),
    "kl_per_site": lambda room, model, x: room.kl_per_site(model, x),
    "log_likelihood": lambda room, model, x: room.log_likelihood(model, x, 5),
    "log_likelihood-ais": lambda room, model, x: room.log_likelihood(
        model, x, method="ais", **SMALL
    ),
    "bdmc": lambda room, model, x: room.bdmc(model, x, **SMALL),
    "gaps": lambda room, model, x: room.gaps(model, x, ("gaussian",), k=2),
    "active_units": lambda room, model, x: room.active_units(model, x),
    "posterior_collapse": lambda room, model, x: room.posterior_collapse(model, x),
    "elbo_surgery": lambda room, model, x: room.elbo_surgery(model, x),
    "calibration": lambda room, model, x: room.calibration(model, 100, data=x),
    "impute": lambda room, model, x: room.impute(model, x, X > 0.5),
    "gradient_stats": lambda room, model, x: room.gradient_stats(room.ELBO(), model, x, 2),
    "compare": lambda room, model, x: room.compare(
        model, [room.ELBO()], X, x, epochs=1, progress=False
    ),
}
NEED_ARVIZ: dict[str, Callable[[Any, Any, Any], Any]] = {
    "pareto_k": lambda room, model, x: room.pareto_k(model, x, 100),
    "to_arviz": lambda room, model, x: room.to_arviz(model, x, 4),
    "diagnose": lambda room, model, x: room.diagnose(model, x, 100, simulations=100),
}

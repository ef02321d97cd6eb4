"""See `ppl_vae.inference.evaluation.impute`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from numpyro import handlers

from ppl_vae.numpyro.models.base import Model, as_jax, check_model
from ppl_vae.shared.checks import as_numpy, check_mask, check_seed, check_whole


def impute(model: Model, x: Any, observed: Any, *, steps: int = 100, seed: int = 0) -> Array:
    """See `ppl_vae.inference.impute`."""
    check_whole("steps", steps, 1)
    check_seed(seed)
    check_model(model)
    model.check(x)
    check_mask("observed", observed, x.shape[1])
    if len(observed) != len(x):
        raise ValueError(f"observed should have {len(x)} rows, those of x, had {len(observed)}")
    known, mask = as_jax(x), jnp.asarray(as_numpy(observed))

    def step(now: Array, key: Array) -> tuple[Array, None]:
        for_guide, for_model = jax.random.split(key)
        guide = handlers.trace(handlers.seed(model.guide, for_guide)).get_trace(now)
        program = handlers.seed(handlers.uncondition(model.model), for_model)
        sites = handlers.trace(handlers.replay(program, guide)).get_trace(now)
        return jnp.where(mask, known, sites["x"]["value"].astype(known.dtype)), None

    now, _ = lax.scan(step, known, jax.random.split(jax.random.key(seed), steps))
    return now

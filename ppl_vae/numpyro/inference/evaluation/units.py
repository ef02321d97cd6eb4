"""See `ppl_vae.inference.evaluation.units`."""

from contextlib import suppress

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution, Independent
from numpyro.distributions.discrete import (
    BernoulliLogits,
    BernoulliProbs,
    CategoricalLogits,
    CategoricalProbs,
)
from numpyro.distributions.kl import kl_divergence

from ppl_vae.numpyro.inference.draws import Draws, Site, unwrap
from ppl_vae.shared.evaluation.sites import closed_given_draws

BERNOULLI, CATEGORICAL = BernoulliLogits | BernoulliProbs, CategoricalLogits | CategoricalProbs


def unit_means(site: Site) -> Array:
    """See `ppl_vae.inference.evaluation.units.unit_means`."""
    fn, base = site.fn, _units(site.fn)
    if isinstance(base, CATEGORICAL):
        shape = (*fn.batch_shape, *fn.event_shape, base.probs.shape[-1])
        return jnp.broadcast_to(base.probs, shape)
    try:
        mean: Array = fn.mean
    except NotImplementedError:
        mean = site.value
    return mean[..., None]


def unit_divergences(site: Site, draws: Draws) -> tuple[str, Array, int]:
    """See `ppl_vae.inference.evaluation.units.unit_divergences`."""
    q, p = unwrap(site.fn)[0], unwrap(draws.model[site.name].fn)[0]
    units: tuple[int, ...] = ()
    if isinstance(q, Independent) and isinstance(p, Independent):
        units = q.event_shape[: q.reinterpreted_batch_ndims]
        q, p = _units(q), _units(p)
    kind, value = "log_ratio", q.log_prob(site.value) - p.log_prob(site.value)
    if closed_given_draws(site.name, draws.model, draws.guide):
        with suppress(NotImplementedError):
            kind, value = "kl", _kl(q, p)
    return kind, jnp.broadcast_to(value, (*site.fn.batch_shape, *units)), len(units)


def _units(fn: Distribution) -> Distribution:
    """Return the distribution of independent units."""
    base = unwrap(fn)[0]
    return unwrap(base.base_dist)[0] if isinstance(base, Independent) else base


def _kl(q: Distribution, p: Distribution) -> Array:
    """Return KL(q || p) in closed form, also for discrete distributions that NumPyro lacks."""
    if isinstance(q, BERNOULLI) and isinstance(p, BERNOULLI):
        logits = (jnp.stack([jnp.zeros_like(d.logits), d.logits], -1) for d in (q, p))
    elif isinstance(q, CATEGORICAL) and isinstance(p, CATEGORICAL):
        logits = (d.logits for d in (q, p))
    else:
        return jnp.asarray(kl_divergence(q, p))
    log_q, log_p = (jax.nn.log_softmax(value) for value in logits)
    return jnp.where(jnp.isneginf(log_q), 0.0, jnp.exp(log_q) * (log_q - log_p)).sum(-1)

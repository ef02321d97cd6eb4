"""Means and divergences of the latent units of a site."""

from contextlib import suppress
from typing import Any

from pyro.distributions import Categorical, Independent
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.inference.draws import Draws, Site
from ppl_vae.shared.evaluation.sites import closed_given_draws


def unit_means(site: Site) -> Tensor:
    """Return the mean of each unit, (*batch, *units, 1), or class probabilities in its place."""
    fn: Any = site.fn
    base = fn.base_dist if isinstance(fn, Independent) else fn
    if isinstance(base, Categorical):
        probabilities: Tensor = base.probs
        return probabilities
    try:
        mean: Tensor = fn.mean
    except NotImplementedError:
        mean = site.value
    return mean[..., None]


def unit_divergences(site: Site, draws: Draws) -> tuple[str, Tensor, int]:
    """Return a divergence of each unit, or of dependent units together, (*batch, *units).

    Returns:
        "kl" with KL(q || p), or "log_ratio" with log q - log p where it has no closed form; the
        value; and the number of its dimensions of units.
    """
    q: Any = site.fn
    p: Any = draws.model[site.name].fn
    plates = len(q.batch_shape)
    if isinstance(q, Independent) and isinstance(p, Independent):
        q, p = q.base_dist, p.base_dist
    kind, value = "log_ratio", q.log_prob(site.value) - p.log_prob(site.value)
    if closed_given_draws(site.name, draws.model, draws.guide):
        with suppress(NotImplementedError):
            kind, value = "kl", kl_divergence(q, p).expand(q.batch_shape)
    return kind, value, value.dim() - plates

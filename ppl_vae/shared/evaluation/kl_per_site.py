"""The KL term of the ELBO by latent site."""

from typing import Any

from ppl_vae.shared.checks import check_whole
from ppl_vae.shared.evaluation.backends import AnyModel, pair_of
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.sites import check_kl_terms


def kl_per_site(
    model: AnyModel, data: Any, *, k: int = 1, batch_size: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Return E_q[log q(z | ...) - log p(z | ...)] of each latent site by name, in nats per datum.

    The sum over sites is the KL divergence of guide and prior, -ELBO without the reconstruction
    term; a layer with a term near 0 is unused. The expectation of a datum is the mean of k draws;
    for one draw its Monte Carlo error is unknown (NaN), but part of the standard error over the
    data. For a bottom-up guide the term of a single layer can be negative.

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once.
        k: Number of draws for each datum.
        batch_size: Batch size; limits peak memory.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.

    Raises:
        ValueError: there is no latent site, or one is enumerated or lies outside the data plate, or
            has a prior that depends on a site that the model alone enumerates.
    """
    check_whole("k", k, 1)
    pair = pair_of(model, data, batch_size=batch_size, seed=seed)
    terms: dict[str, list[Estimate]] = {}
    with pair.evaluating():
        for number, rows in enumerate(pair.rows()):
            draws = pair.draws(rows, k, number)
            for name in check_kl_terms(draws.model, draws.guide):
                term = draws.guide[name].log_prob - draws.model[name].log_prob
                terms.setdefault(name, []).append(Estimate.of_draws(term))
    return {name: Estimate.join(parts) for name, parts in terms.items()}

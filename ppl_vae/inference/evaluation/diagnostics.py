"""What a trained pair's guide is worth: which units it uses, what its KL term is, its weights."""

from typing import Any

from ppl_vae.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.models.base import Model
from ppl_vae.shared.evaluation import elbo_surgery as surgery
from ppl_vae.shared.evaluation import inference_data, latent_units
from ppl_vae.shared.evaluation import pareto_k as psis
from ppl_vae.shared.evaluation.elbo_surgery import ElboSurgery
from ppl_vae.shared.evaluation.latent_units import ActiveUnits, PosteriorCollapse
from ppl_vae.shared.evaluation.pareto_k import ParetoK


def active_units(
    model: Model,
    data: Any,
    threshold: float = 0.01,
    *,
    k: int = 10,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> ActiveUnits:
    """Which latent units are active: their posterior mean differs between data.

        A_u = Var_x(E_q[z_u | x]) > threshold                                            (1)

    The inner mean is that of the guide's distribution, exact where a site is drawn from x
    alone, else averaged over k draws of what was drawn before. As (1) of an average is too large by
    the variance of its noise, it is estimated without bias by the covariance over data of the
    averages of two halves of the draws; this can be a little below 0. A discrete unit has the
    variances of its probabilities: that of 1 if it is binary, else their sum over classes. Where a
    distribution has no mean (a flow), draws themselves are averaged.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
        arXiv:1509.00519, section 5.2.

    Differs from the paper:
        The estimate without bias (the paper: the mean of the draws).

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments, at least 2 data; of data
            that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        threshold: What A_u has to exceed.
        k: Number of draws for each datum, even.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the guide draws nothing, or a latent site lies outside the data plate or has a
            mask, or an argument is not such.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    return latent_units.active_units(TrainedPair(model, data, **settings), threshold, k)


def posterior_collapse(
    model: Model,
    data: Any,
    *,
    epsilon: float = 0.01,
    delta: float = 0.01,
    k: int = 10,
    threshold: float = 0.01,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> PosteriorCollapse:
    """Which latent units have the same posterior for all data: their prior.

        unit u is (epsilon, delta)-collapsed:  P_x(KL(q(z_u | x) || p(z_u)) < epsilon) >= 1 - delta

    The divergence of a unit is a closed form given what the guide drew before, averaged over k
    draws. Where there is none its mean over the data, E[log q - log p], is estimated from draws,
    and can be negative; the divergence of a datum, and so whether a unit has collapsed, is then
    not known. That is so for distributions without a closed form, and for a layer whose prior
    depends on what the guide draws later (z_1 of a guide that goes bottom-up). A site whose units
    depend on one another is looked at as a whole. With it go the active units, see `active_units`.

    References:
        Lucas, Tucker, Grosse & Norouzi, "Don't blame the ELBO! A linear VAE perspective on
        posterior collapse", NeurIPS 2019, arXiv:1911.02469, definition 1.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments, at least 2 data; of data
            that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        epsilon: KL divergence, in nats, below which a unit tells nothing of a datum.
        delta: Share of the data of which a collapsed unit may tell something.
        k: Number of draws for each datum, even.
        threshold: Of active units.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: as `active_units`, or the model alone enumerates a site.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, data, **settings)
    return latent_units.posterior_collapse(pair, epsilon, delta, k, threshold)


def elbo_surgery(
    model: Model,
    data: Any,
    *,
    k: int = 1,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> ElboSurgery:
    """The KL term of the bound as mutual information and divergence of the aggregate posterior.

        1/n sum_i KL(q(z | x_i) || p(z)) = I(x; z) + KL(q(z) || p(z))                     (1)
        I(x; z) = 1/n sum_i E_q(z | x_i) log q(z | x_i) / q(z),  q(z) = 1/n sum_j q(z | x_j)   (2)

    for all latent sites together; x_i stands for all that is observed of a datum, its label too.
    The mixture (2) is over all n data given, so that nothing of it is estimated but the
    expectation, from k draws for each datum; the cost is n^2 k densities.
    I(x; z) is at most log n (`log_n`). Near it the draws tell which of these data they are of, and
    more data would give more: it is then a lower bound. For the left side of (1) closed forms are
    taken where there are.

    References:
        Hoffman & Johnson, "ELBO surgery: yet another way to carve up the variational evidence
        lower bound", NIPS 2016 workshop on advances in approximate Bayesian inference, section 3.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments, at least 2 data; of data
            that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum.
        batch_size: Data that are looked at together; it bounds the memory.
        seed: Of the draws and the pixels; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the prior depends on the datum (a conditional model), which then has no
            aggregate posterior; or as `posterior_collapse`.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    return surgery.elbo_surgery(TrainedPair(model, data, **settings), k)


def pareto_k(
    model: Model,
    data: Any,
    k: int = 1000,
    *,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> ParetoK:
    """k-hat of each datum: how heavy the tail of its weights p(x, z) / q(z | x) is.

    The largest of k weights are fitted by a generalised Pareto distribution of shape k-hat. Below
    0.5 the weights have a variance; above 0.7 q(z | x) is too far from the posterior, or has too
    light tails, for estimates from it to be corrected by weights (`log_likelihood` among them). It
    is minus infinity where 5 draws or more have the largest weight, which is then a bound: with
    the exact posterior, or discrete latents of few states.

    Needs ArviZ: pip install 'ppl_vae[diagnostics]'.

    References:
        Yao, Vehtari, Simpson & Gelman, "Yes, but did it work?: evaluating variational inference",
        ICML 2018, arXiv:1802.02538, section 3.
        Vehtari, Simpson, Gelman, Yao & Gabry, "Pareto smoothed importance sampling", JMLR 2024,
        arXiv:1507.02646.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum, at least 100; all n k weights are kept.
        batch_size: Data that are looked at together; it bounds the memory of the rest.
        seed: Of the draws and the pixels; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the guide draws nothing, a site lies outside the data plate, or an argument is
            not such.
        ImportError: ArviZ is not installed.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    return psis.pareto_k(TrainedPair(model, data, **settings), k)


def to_arviz(
    model: Model,
    data: Any,
    k: int = 100,
    *,
    resample: bool = False,
    predictive: bool = True,
    batch_size: int = 100,
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Any:
    """ArviZ's InferenceData of draws from the guide, for its summaries and pictures.

    | group | variables | dimensions |
    |---|---|---|
    | posterior | each latent site | chain (1), draw (k), data (n), s_unit |
    | log_likelihood | log p(x, ...) of each observed site | chain, draw, data |
    | sample_stats | lp = log p(x, z), log_weight = lp - log q(z given x) | chain, draw, data |
    | prior | each latent site, drawn from the model | as posterior |
    | posterior_predictive, prior_predictive | each observed site, drawn anew | the same |
    | observed_data | each observed site | data, s_unit |

    where s is the site's name, and "s_unit_0", "s_unit_1", ... several dimensions of one.

    The group posterior holds draws from the guide q(z | x), or with `resample` draws that are
    chosen among them by Pareto smoothed weights, with repetition, and so nearly from p(z | x) where
    `pareto_k` is below 0.7. Attribute `draws_of` says which. Each datum has latents of its own, so
    that `az.loo` is a harmonic mean estimate of log p(x) of each datum, for which k-hat is mostly
    too large; `log_likelihood` is the one to use.

    Memory: 2 n k numbers for each latent unit, and 2 n k for each entry of x if `predictive`:
    100 draws for 1000 images of 784 pixels take 0.6 GB in single precision.

    Needs ArviZ: pip install 'ppl_vae[diagnostics]'.

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Number of draws for each datum, with `resample` at least 100.
        resample: Whether draws are chosen by their weights.
        predictive: Whether observed sites are drawn, the two predictive groups.
        batch_size: Data that are looked at together.
        seed: Of all draws; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the guide draws nothing, a latent site lies outside the data plate or has a
            mask, the model alone enumerates a site, or an argument is not such.
        ImportError: ArviZ is not installed.
    """
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, data, **settings)
    return inference_data.to_arviz(pair, k, resample=resample, predictive=predictive, seed=seed)

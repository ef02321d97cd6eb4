"""The catalogue of objectives, as `ppl_vae.inference`."""

from ppl_vae.measures.estimates import BDMC, Estimate
from ppl_vae.measures.gaps import Gaps
from ppl_vae.numpyro.inference.baselines import BaselineNet
from ppl_vae.numpyro.inference.bdmc import bdmc
from ppl_vae.numpyro.inference.calibration import calibration
from ppl_vae.numpyro.inference.compare import compare
from ppl_vae.numpyro.inference.diagnose import diagnose
from ppl_vae.numpyro.inference.diagnostics import (
    active_units,
    elbo_surgery,
    pareto_k,
    posterior_collapse,
    to_arviz,
)
from ppl_vae.numpyro.inference.dreg import STL, DReG
from ppl_vae.numpyro.inference.elbo import ELBO
from ppl_vae.numpyro.inference.evaluate import kl_per_site, mean_loss
from ppl_vae.numpyro.inference.fit import fit
from ppl_vae.numpyro.inference.gaps import gaps
from ppl_vae.numpyro.inference.geco import GECO
from ppl_vae.numpyro.inference.gradients import gradient_stats
from ppl_vae.numpyro.inference.hybrid import Hybrid
from ppl_vae.numpyro.inference.impute import impute
from ppl_vae.numpyro.inference.iwae import CIWAE, IWAE, MIWAE
from ppl_vae.numpyro.inference.lagging import Lagging
from ppl_vae.numpyro.inference.log_likelihood import log_likelihood
from ppl_vae.numpyro.inference.objective import Objective
from ppl_vae.numpyro.inference.piwae import PIWAE
from ppl_vae.numpyro.inference.relaxed import Relaxed
from ppl_vae.numpyro.inference.renyi import CUBO, Renyi
from ppl_vae.numpyro.inference.semi_supervised import SemiSupervised
from ppl_vae.numpyro.inference.tvo import TVO
from ppl_vae.numpyro.inference.vimco import VIMCO
from ppl_vae.numpyro.inference.wake_sleep import RWS, WakeSleep
from ppl_vae.runs.history import History
from ppl_vae.settings.free_bits import FreeBits
from ppl_vae.settings.optimizers import SGD, Adam, Adamax, AdamW
from ppl_vae.settings.schedules import ExponentialDecay, Schedule, Warmup

__all__ = [
    # objectives
    "CIWAE",
    "CUBO",
    "DReG",
    "ELBO",
    "GECO",
    "Hybrid",
    "IWAE",
    "Lagging",
    "MIWAE",
    "PIWAE",
    "RWS",
    "Relaxed",
    "Renyi",
    "STL",
    "SemiSupervised",
    "TVO",
    "VIMCO",
    "WakeSleep",
    # their parts
    "BaselineNet",
    "FreeBits",
    "Warmup",
    # to build on
    "Objective",
    "Schedule",
    # training
    "SGD",
    "Adam",
    "AdamW",
    "Adamax",
    "ExponentialDecay",
    "History",
    "fit",
    # using
    "impute",
    # comparing
    "compare",
    "gradient_stats",
    # measuring
    "BDMC",
    "Estimate",
    "Gaps",
    "active_units",
    "bdmc",
    "calibration",
    "diagnose",
    "elbo_surgery",
    "gaps",
    "kl_per_site",
    "log_likelihood",
    "mean_loss",
    "pareto_k",
    "posterior_collapse",
    "to_arviz",
]

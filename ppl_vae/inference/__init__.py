"""The catalogue of objectives, and how they are used."""

from ppl_vae.inference.evaluation.bdmc import bdmc
from ppl_vae.inference.evaluation.impute import impute
from ppl_vae.inference.evaluation.log_likelihood import log_likelihood
from ppl_vae.inference.evaluation.loss import mean_loss
from ppl_vae.inference.objectives.dreg import STL, DReG
from ppl_vae.inference.objectives.elbo import ELBO
from ppl_vae.inference.objectives.geco import GECO
from ppl_vae.inference.objectives.hybrid import Hybrid
from ppl_vae.inference.objectives.iwae import CIWAE, IWAE, MIWAE
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.objectives.parts.baselines import BaselineNet
from ppl_vae.inference.objectives.piwae import PIWAE
from ppl_vae.inference.objectives.relaxed import Relaxed
from ppl_vae.inference.objectives.renyi import CUBO, Renyi
from ppl_vae.inference.objectives.semi_supervised import SemiSupervised
from ppl_vae.inference.objectives.tvo import TVO
from ppl_vae.inference.objectives.vimco import VIMCO
from ppl_vae.inference.objectives.wake_sleep import RWS, WakeSleep
from ppl_vae.inference.training.fit import fit
from ppl_vae.inference.training.lagging import Lagging
from ppl_vae.shared.compare import compare
from ppl_vae.shared.evaluation.active_units import active_units
from ppl_vae.shared.evaluation.calibration import calibration
from ppl_vae.shared.evaluation.diagnose import diagnose
from ppl_vae.shared.evaluation.elbo_surgery import elbo_surgery
from ppl_vae.shared.evaluation.estimates import BDMC, Estimate
from ppl_vae.shared.evaluation.gaps import Gaps, gaps
from ppl_vae.shared.evaluation.gradients import gradient_stats
from ppl_vae.shared.evaluation.inference_data import to_arviz
from ppl_vae.shared.evaluation.kl_per_site import kl_per_site
from ppl_vae.shared.evaluation.pareto_k import pareto_k
from ppl_vae.shared.evaluation.posterior_collapse import posterior_collapse
from ppl_vae.shared.interpolation import evenly, path_along_graph
from ppl_vae.shared.objectives.free_bits import FreeBits
from ppl_vae.shared.schedules import ExponentialDecay, Piecewise, Schedule, Warmup
from ppl_vae.shared.training.history import History
from ppl_vae.shared.training.optimizers import SGD, Adam, Adamax, AdamW

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
    "Piecewise",
    "History",
    "fit",
    # using
    "impute",
    # interpolation
    "evenly",
    "path_along_graph",
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

"""The catalogue of objectives, as `ppl_vae.inference`."""

# isort: off

# Objectives
from ppl_vae.numpyro.inference.objectives.iwae import CIWAE as CIWAE
from ppl_vae.numpyro.inference.objectives.renyi import CUBO as CUBO
from ppl_vae.numpyro.inference.objectives.dreg import DReG as DReG
from ppl_vae.numpyro.inference.objectives.elbo import ELBO as ELBO
from ppl_vae.numpyro.inference.objectives.geco import GECO as GECO
from ppl_vae.numpyro.inference.objectives.hybrid import Hybrid as Hybrid
from ppl_vae.numpyro.inference.objectives.iwae import IWAE as IWAE
from ppl_vae.numpyro.inference.training.lagging import Lagging as Lagging
from ppl_vae.numpyro.inference.objectives.iwae import MIWAE as MIWAE
from ppl_vae.numpyro.inference.objectives.piwae import PIWAE as PIWAE
from ppl_vae.numpyro.inference.objectives.wake_sleep import RWS as RWS
from ppl_vae.numpyro.inference.objectives.relaxed import Relaxed as Relaxed
from ppl_vae.numpyro.inference.objectives.renyi import Renyi as Renyi
from ppl_vae.numpyro.inference.objectives.dreg import STL as STL
from ppl_vae.numpyro.inference.objectives.semi_supervised import SemiSupervised as SemiSupervised
from ppl_vae.numpyro.inference.objectives.tvo import TVO as TVO
from ppl_vae.numpyro.inference.objectives.vimco import VIMCO as VIMCO
from ppl_vae.numpyro.inference.objectives.wake_sleep import WakeSleep as WakeSleep

# Their parts
from ppl_vae.numpyro.inference.objectives.parts.baselines import BaselineNet as BaselineNet
from ppl_vae.shared.objectives.free_bits import FreeBits as FreeBits
from ppl_vae.shared.schedules import Warmup as Warmup

# To build on
from ppl_vae.numpyro.inference.objectives.parts.base import Objective as Objective
from ppl_vae.shared.schedules import Schedule as Schedule

# Training
from ppl_vae.shared.training.optimizers import SGD as SGD
from ppl_vae.shared.training.optimizers import Adam as Adam
from ppl_vae.shared.training.optimizers import AdamW as AdamW
from ppl_vae.shared.training.optimizers import Adamax as Adamax
from ppl_vae.shared.schedules import ExponentialDecay as ExponentialDecay
from ppl_vae.shared.schedules import Piecewise as Piecewise
from ppl_vae.shared.training.history import History as History
from ppl_vae.numpyro.inference.training.fit import fit as fit

# Using
from ppl_vae.numpyro.inference.evaluation.impute import impute as impute

# Interpolation
from ppl_vae.shared.interpolation import evenly as evenly
from ppl_vae.shared.interpolation import path_along_graph as path_along_graph

# Comparing
from ppl_vae.shared.compare import compare as compare
from ppl_vae.shared.evaluation.gradients import gradient_stats as gradient_stats

# Measuring
from ppl_vae.shared.evaluation.estimates import BDMC as BDMC
from ppl_vae.shared.evaluation.estimates import Estimate as Estimate
from ppl_vae.shared.evaluation.gaps import Gaps as Gaps
from ppl_vae.shared.evaluation.active_units import active_units as active_units
from ppl_vae.numpyro.inference.evaluation.bdmc import bdmc as bdmc
from ppl_vae.shared.evaluation.calibration import calibration as calibration
from ppl_vae.shared.evaluation.diagnose import diagnose as diagnose
from ppl_vae.shared.evaluation.elbo_surgery import elbo_surgery as elbo_surgery
from ppl_vae.shared.evaluation.gaps import gaps as gaps
from ppl_vae.shared.evaluation.kl_per_site import kl_per_site as kl_per_site
from ppl_vae.numpyro.inference.evaluation.log_likelihood import log_likelihood as log_likelihood
from ppl_vae.numpyro.inference.evaluation.loss import mean_loss as mean_loss
from ppl_vae.shared.evaluation.pareto_k import pareto_k as pareto_k
from ppl_vae.shared.evaluation.posterior_collapse import posterior_collapse as posterior_collapse
from ppl_vae.shared.evaluation.inference_data import to_arviz as to_arviz

__all__ = [name for name, value in vars().items() if callable(value) and name[0] != "_"]

"""The catalogue of models, as `ppl_vae.models`."""

from ppl_vae.numpyro.models.base import ClassifierMixin, Model
from ppl_vae.numpyro.models.baseline import Baseline
from ppl_vae.numpyro.models.classifier import Classifier
from ppl_vae.numpyro.models.conditional import ConditionalModel
from ppl_vae.numpyro.models.cvae import CVAE, GSNN
from ppl_vae.numpyro.models.distributions.rank_one_normal import RankOneNormal
from ppl_vae.numpyro.models.dlgm import DLGM
from ppl_vae.numpyro.models.hierarchical_vae import HierarchicalVAE
from ppl_vae.numpyro.models.ladder_vae import LadderVAE
from ppl_vae.numpyro.models.m1 import M1
from ppl_vae.numpyro.models.m1_m2 import M1M2
from ppl_vae.numpyro.models.m2 import M2
from ppl_vae.numpyro.models.networks.conditionals import (
    BernoulliNet,
    CategoricalNet,
    DiagNormalNet,
    FactorisedCategoricalNet,
)
from ppl_vae.numpyro.models.networks.layers import MLP, BatchNorm, ConcatLinear, Network
from ppl_vae.numpyro.models.networks.posteriors import RankOneNormalNet
from ppl_vae.numpyro.models.networks.priors import (
    FactorisedBernoulli,
    FactorisedCategorical,
    StandardNormal,
    UniformCategorical,
)
from ppl_vae.numpyro.models.sbn import SBN, ConditionalSBN
from ppl_vae.numpyro.models.vae import VAE
from ppl_vae.numpyro.models.vhp import VHP

__all__ = [
    # to build on
    "Model",
    "ClassifierMixin",
    "ConditionalModel",
    "Network",
    # conditional distributions and their trunks
    "MLP",
    "BatchNorm",
    "BernoulliNet",
    "CategoricalNet",
    "ConcatLinear",
    "DiagNormalNet",
    "FactorisedCategoricalNet",
    # distributions of latent variables
    "StandardNormal",
    "UniformCategorical",
    "FactorisedBernoulli",
    "FactorisedCategorical",
    "RankOneNormal",
    "RankOneNormalNet",
    # one layer of latent variables
    "VAE",
    # several layers of latent variables
    "HierarchicalVAE",
    "LadderVAE",
    "DLGM",
    "VHP",
    # layers of discrete latent variables
    "SBN",
    "ConditionalSBN",
    # conditions
    "Baseline",
    "GSNN",
    "CVAE",
    # labels
    "Classifier",
    "M1",
    "M2",
    "M1M2",
]

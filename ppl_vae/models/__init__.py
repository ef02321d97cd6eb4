"""The catalogue of models, in reading order."""

from ppl_vae.models.base import ClassifierMixin, Model
from ppl_vae.models.baseline import Baseline
from ppl_vae.models.classifier import Classifier
from ppl_vae.models.conditional import ConditionalModel
from ppl_vae.models.cvae import CVAE, GSNN
from ppl_vae.models.distributions.rank_one_normal import RankOneNormal
from ppl_vae.models.dlgm import DLGM
from ppl_vae.models.hierarchical_vae import HierarchicalVAE
from ppl_vae.models.ladder_vae import LadderVAE
from ppl_vae.models.m1 import M1
from ppl_vae.models.m1_m2 import M1M2
from ppl_vae.models.m2 import M2
from ppl_vae.models.networks.conditionals import (
    BernoulliNet,
    CategoricalNet,
    DiagNormalNet,
    FactorisedCategoricalNet,
)
from ppl_vae.models.networks.layers import MLP, BatchNorm, ConcatLinear, Network
from ppl_vae.models.networks.posteriors import RankOneNormalNet
from ppl_vae.models.networks.priors import (
    FactorisedBernoulli,
    FactorisedCategorical,
    StandardNormal,
    UniformCategorical,
)
from ppl_vae.models.sbn import SBN, ConditionalSBN
from ppl_vae.models.vae import VAE
from ppl_vae.models.vhp import VHP

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

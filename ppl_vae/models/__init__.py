"""The catalogue of models, in reading order.

One line for each class; the comments are the headings of docs/models.md.
"""

# isort: off

# To build on
from ppl_vae.models.base import Model as Model
from ppl_vae.models.base import ClassifierMixin as ClassifierMixin
from ppl_vae.models.conditional import ConditionalModel as ConditionalModel
from ppl_vae.models.networks.layers import Network as Network

# Conditional distributions and their trunks
from ppl_vae.models.networks.layers import MLP as MLP
from ppl_vae.models.networks.layers import BatchNorm as BatchNorm
from ppl_vae.models.networks.layers import ConcatLinear as ConcatLinear
from ppl_vae.models.networks.conditionals import BernoulliNet as BernoulliNet
from ppl_vae.models.networks.conditionals import CategoricalNet as CategoricalNet
from ppl_vae.models.networks.conditionals import DiagNormalNet as DiagNormalNet
from ppl_vae.models.networks.conditionals import (
    FactorisedCategoricalNet as FactorisedCategoricalNet,
)

# Distributions of latent variables
from ppl_vae.models.networks.priors import StandardNormal as StandardNormal
from ppl_vae.models.networks.priors import UniformCategorical as UniformCategorical
from ppl_vae.models.networks.priors import FactorisedBernoulli as FactorisedBernoulli
from ppl_vae.models.networks.priors import FactorisedCategorical as FactorisedCategorical
from ppl_vae.models.distributions.rank_one_normal import RankOneNormal as RankOneNormal
from ppl_vae.models.networks.posteriors import RankOneNormalNet as RankOneNormalNet

# One layer of latent variables
from ppl_vae.models.vae import VAE as VAE

# Several layers of latent variables
from ppl_vae.models.hierarchical_vae import HierarchicalVAE as HierarchicalVAE
from ppl_vae.models.ladder_vae import LadderVAE as LadderVAE
from ppl_vae.models.dlgm import DLGM as DLGM
from ppl_vae.models.vhp import VHP as VHP

# Layers of discrete latent variables
from ppl_vae.models.sbn import SBN as SBN
from ppl_vae.models.sbn import ConditionalSBN as ConditionalSBN

# Conditional models
from ppl_vae.models.baseline import Baseline as Baseline
from ppl_vae.models.cvae import GSNN as GSNN
from ppl_vae.models.cvae import CVAE as CVAE

# Semi-supervised models
from ppl_vae.models.classifier import Classifier as Classifier
from ppl_vae.models.m1 import M1 as M1
from ppl_vae.models.m2 import M2 as M2
from ppl_vae.models.m1_m2 import M1M2 as M1M2

__all__ = [name for name, value in vars().items() if isinstance(value, type)]

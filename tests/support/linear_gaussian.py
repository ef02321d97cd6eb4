"""A VAE whose bound is known: p(z) = N(0, I), and x and z linear in one another, with noise.

    p(x_d | z) = N(W_d z + b_d, exp(v_d z + c_d)),  q(z | x) = N(m(x), diag s(x)^2)

With v = 0 also log p(x) and p(z | x) are known; with the columns of W orthogonal, and one noise
for all of x, q can be p(z | x). All in double precision.
"""

import math
from collections.abc import Sequence

import torch
from pyro.distributions import Independent, Normal
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ppl_vae.models import VAE, ConcatLinear, DiagNormalNet, Network

X_DIM, Z_DIM, N = 3, 2, 4


class UnreparametrisedNet(DiagNormalNet):
    """The same distribution, of which the gradient does not pass through the draws."""

    def forward(self, *inputs: Tensor) -> Independent:
        q = super().forward(*inputs).base_dist
        return Independent(NonreparameterizedNormal(q.loc, q.scale), 1)


class JointLinear(Network):
    """N(W [a, b, ...] + c, diag exp(log_var)): linear in several inputs, of a constant scale."""

    def __init__(self, in_dims: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.loc = ConcatLinear(in_dims, out_dim)
        self.log_var = nn.Parameter(torch.randn(out_dim))

    def forward(self, *inputs: Tensor) -> Independent:
        return Independent(Normal(self.loc(*inputs), (0.5 * self.log_var).exp()), 1)


def data() -> Tensor:
    return torch.randn(N, X_DIM, dtype=torch.double)


def vae(encoder: type[DiagNormalNet] = DiagNormalNet) -> VAE:
    """Any linear pair: no network has a hidden layer."""
    decoder = DiagNormalNet(Z_DIM, X_DIM, ())
    return VAE(X_DIM, Z_DIM, (), encoder=encoder(X_DIM, Z_DIM, ()), decoder=decoder).double()


@torch.no_grad()
def conjugate(exact: bool) -> VAE:
    """A pair of one noise level for all of x, whose guide is the posterior if `exact`."""
    model = vae()
    loading = torch.linalg.qr(torch.randn(X_DIM, Z_DIM, dtype=torch.double))[0]
    weight, bias, noise = loading * torch.tensor([1.5, 0.7]), model.decoder.loc.bias, 0.4
    model.decoder.loc.weight.copy_(weight)
    model.decoder.log_var.weight.zero_()
    model.decoder.log_var.bias.fill_(math.log(noise))
    if exact:
        variance = 1 / (1 + (weight**2).sum(0) / noise)
        gain = variance[:, None] * weight.T / noise
        model.encoder.loc.weight.copy_(gain)
        model.encoder.loc.bias.copy_(-gain @ bias)
        model.encoder.log_var.weight.zero_()
        model.encoder.log_var.bias.copy_(variance.log())
    return model


def log_evidence(model: VAE, x: Tensor) -> Tensor:
    """log p(x) of each datum, for v = 0."""
    w, b, c = model.decoder.loc.weight, model.decoder.loc.bias, model.decoder.log_var.bias
    return MultivariateNormal(b, w @ w.T + torch.diag(c.exp())).log_prob(x)


def posterior(model: VAE, x: Tensor) -> MultivariateNormal:
    """p(z | x), for v = 0."""
    w, b, c = model.decoder.loc.weight, model.decoder.loc.bias, model.decoder.log_var.bias
    precision = torch.eye(Z_DIM, dtype=x.dtype) + w.T @ torch.diag((-c).exp()) @ w
    mean = torch.linalg.solve(precision, ((x - b) / c.exp() @ w).T).T
    return MultivariateNormal(mean, precision_matrix=precision)


def kl(model: VAE, x: Tensor) -> Tensor:
    """KL(q(z | x) || N(0, I)) of each datum (Kingma & Welling 2014, appendix B)."""
    m, log_var = model.encoder.loc(x), model.encoder.log_var(x)
    return -0.5 * (1 + log_var - m**2 - log_var.exp()).sum(-1)


def bound(model: VAE, x: Tensor) -> Tensor:
    """The ELBO of each datum. E[exp(-v z) f(z)] is an E[f] of a shifted normal distribution."""
    m, var = model.encoder.loc(x)[:, None], model.encoder.log_var(x).exp()[:, None]
    w, b = model.decoder.loc.weight, model.decoder.loc.bias
    v, c = model.decoder.log_var.weight, model.decoder.log_var.bias
    shifted = m - var * v
    square = (x - (w * shifted).sum(-1) - b) ** 2 + (w**2 * var).sum(-1)
    inverse = (-c - (v * m).sum(-1) + 0.5 * (v**2 * var).sum(-1)).exp()
    log_p = -0.5 * (math.log(2 * math.pi) + (v * m).sum(-1) + c + inverse * square)
    return log_p.sum(-1) - kl(model, x)

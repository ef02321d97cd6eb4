"""Conditional variational autoencoders: structured prediction with latent variables."""

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from ppl_vae.models.conditional import ConditionalModel
from ppl_vae.models.networks.conditionals import BernoulliNet, DiagNormalNet
from ppl_vae.shared.checks import check_dims


class GSNN(ConditionalModel):
    """Gaussian stochastic neural network p(z | c) p(x | c, z), whose guide is the prior.

        p(x, z | c) = p(z | c) p(x | c, z),    p(z | c) = N(mu(c), diag sigma(c)^2)     (1)
        q(z | c, x) = p(z | c)                                                          (2)

    Its bound is E_{p(z | c)} log p(x | c, z), and there is no recognition network. `CVAE` adds one,
    and `CVAE.gsnn()` returns the GSNN that shares the other networks with it.

    With a `baseline`, a network p0(x | c) whose mean is a first guess of x, the prior is
    p(z | c, E_p0[x | c]). Gradients flow into the baseline, so it is trained with the rest unless
    its parameters are frozen (`requires_grad_(False)`).

    A boolean `mask` of the shape of x is True for observed entries. The other entries are neither
    scored nor visible to the guide, so the bound is that of log p(x[mask] | c).

    References:
        Sohn, Lee & Yan, "Learning structured output representation using deep conditional
        generative models", NeurIPS 2015 (the paper's x is our c, its y our x).

    Differs from the paper:
        The baseline enters by its mean, and in a CVAE it is an input of the recognition network
        too; sizes and activation are those of Pyro's example; torch's initialisation.

    Args:
        x_dim: Size of a target; targets x have shape (n, x_dim).
        c_dim: Size of a condition: c has shape (n, c_dim), or is a vector (n,) of integer classes
            0, ..., c_dim - 1, which are passed to networks as one-hot vectors.
        z_dim: Size of the latent variable.
        hidden: Sizes of the hidden layers of the prior (and the encoder); the decoder has them in
            reverse order.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        decoder_sees_c: Whether the decoder is p(x | c, z), or p(x | z) alone as in Pyro's example.
        prior: p(z | c), called with c, and with the baseline's mean if there is a baseline.
        decoder: p(x | c, z), called with z, and with c if `decoder_sees_c`.
        baseline: p0(x | c), called with c; only its mean is used.
    """

    def __init__(
        self,
        x_dim: int = 784,
        c_dim: int = 784,
        z_dim: int = 200,
        hidden: Sequence[int] = (500, 500),
        activation: str = "relu",
        decoder_sees_c: bool = True,
        *,
        prior: nn.Module | None = None,
        decoder: nn.Module | None = None,
        baseline: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_dims(x_dim=x_dim, c_dim=c_dim, z_dim=z_dim)
        self.x_dim, self.c_dim, self.decoder_sees_c = x_dim, c_dim, decoder_sees_c
        prior_dims = (c_dim,) if baseline is None else (c_dim, x_dim)
        self.prior = prior or DiagNormalNet(prior_dims, z_dim, hidden, activation)
        inputs = (z_dim, c_dim) if decoder_sees_c else (z_dim,)
        self.decoder = decoder or BernoulliNet(inputs, x_dim, hidden[::-1], activation)
        self.baseline = baseline

    def model(self, c: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(*self.prior_inputs(c)))  # (1)
            p = self.decoder(z, self.vectors(c)) if self.decoder_sees_c else self.decoder(z)
            self.observe(p, x, mask)

    def guide(self, c: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.prior(*self.prior_inputs(c)))  # (2)

    def prior_inputs(self, c: Tensor) -> tuple[Tensor, ...]:
        """Return the inputs of the prior: c as vectors, and the baseline's mean if there is one."""
        c = self.vectors(c)
        return (c,) if self.baseline is None else (c, self.baseline(c).mean)


class CVAE(GSNN):
    """Conditional variational autoencoder p(z | c) p(x | c, z), with c a vector or a class.

        p(x, z | c) = p(z | c) p(x | c, z),    p(z | c) = N(mu(c), diag sigma(c)^2)     (1)
        q(z | c, x) = N(m(c, x), diag s(c, x)^2)                                        (3)

    For condition, target, baseline and mask see `GSNN`; unobserved entries of x are zero for the
    encoder.

    References:
        Sohn, Lee & Yan, "Learning structured output representation using deep conditional
        generative models", NeurIPS 2015.

    Differs from the paper:
        As `GSNN`.

    Args:
        x_dim: Size of a target; targets x have shape (n, x_dim).
        c_dim: Size of a condition: c has shape (n, c_dim), or is a vector (n,) of integer classes.
        z_dim: Size of the latent variable.
        hidden: Sizes of the hidden layers of prior and encoder; the decoder has them in reverse
            order.
        activation: Activation of the hidden layers, one of `networks.layers.ACTIVATIONS`.
        decoder_sees_c: Whether the decoder is p(x | c, z), or p(x | z) alone.
        prior: p(z | c), called with c, and with the baseline's mean if there is a baseline.
        encoder: q(z | c, x), called with x, c, and with the baseline's mean if there is a baseline.
        decoder: p(x | c, z), called with z, and with c if `decoder_sees_c`.
        baseline: p0(x | c), called with c; only its mean is used.
    """

    def __init__(
        self,
        x_dim: int = 784,
        c_dim: int = 784,
        z_dim: int = 200,
        hidden: Sequence[int] = (500, 500),
        activation: str = "relu",
        decoder_sees_c: bool = True,
        *,
        prior: nn.Module | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        baseline: nn.Module | None = None,
    ) -> None:
        networks: dict[str, Any] = {"prior": prior, "decoder": decoder, "baseline": baseline}
        super().__init__(x_dim, c_dim, z_dim, hidden, activation, decoder_sees_c, **networks)
        in_dims = (x_dim, c_dim) if baseline is None else (x_dim, c_dim, x_dim)
        self.encoder = encoder or DiagNormalNet(in_dims, z_dim, hidden, activation)

    def guide(self, c: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample(
                "z", self.encoder(self.zero_outside_mask(x, mask), *self.prior_inputs(c))
            )  # (3)

    def gsnn(self) -> GSNN:
        """Return the pair whose guide is the prior, with the networks of this model."""
        given = {name: v for name, v in self.arguments.items() if name != "encoder"}
        networks = {"prior": self.prior, "decoder": self.decoder, "baseline": self.baseline}
        return GSNN(**{**given, **networks})

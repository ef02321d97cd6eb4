"""The KL term of each latent site, where it is known, in both backends."""

from typing import Any

import numpy as np
import pytest
import torch
from support import CASE, make

from ppl_vae.inference import kl_per_site
from ppl_vae.models import VAE, HierarchicalVAE

N = 20_000


@torch.no_grad()
def constant() -> HierarchicalVAE:
    """q(z_1 | x), q(z_2 | z_1) and p(z_1 | z_2) are normals that depend on nothing."""
    model = HierarchicalVAE(2, (1, 1), ((), ()))
    networks = (*model.encoders, *model.conditionals)
    for network, (loc, log_var) in zip(
        networks, ((1.0, -1.0), (0.5, 0.0), (0.0, 1.0)), strict=True
    ):
        for linear, value in ((network.loc, loc), (network.log_var, log_var)):
            linear.weight.zero_()
            linear.bias.fill_(value)
    return model


# KL(N(a, e^u) || N(b, e^v)) = (v - u + (e^u + (a - b)^2) / e^v - 1) / 2
EXACT = {"z_1": (2 + (np.exp(-1) + 1) / np.e - 1) / 2, "z_2": 0.5**2 / 2}


def check(terms: dict[str, float]) -> None:
    assert list(terms) == ["z_1", "z_2"]
    for name, value in terms.items():
        assert abs(value - EXACT[name]) < 4 * 1.5 / N**0.5  # no term's deviation exceeds 1.5


def test_terms_are_the_closed_forms_whatever_the_batches() -> None:
    x, model = np.zeros((N, 2), np.float32), constant()
    check(kl_per_site(model, x))
    check(kl_per_site(model, x, batch_size=7777))
    assert model.training


def test_terms_of_the_port() -> None:
    key = pytest.importorskip("port_support").key
    from ppl_vae.numpyro.inference import kl_per_site as of_port
    from ppl_vae.numpyro.models import HierarchicalVAE as Port

    port = Port(2, (1, 1), ((), ()), key=key()).with_weights(constant().state_dict())
    check(of_port(port, np.zeros((N, 2), np.float32), batch_size=7777))


def test_a_guide_that_is_the_prior_has_none() -> None:
    c, x = CASE["gsnn"].data(0)
    assert kl_per_site(make(CASE["gsnn"]), (c, x)) == {"z": 0.0}


def test_enumerated_sites_are_refused() -> None:
    x = CASE["m2-unlabelled"].data(0)
    with pytest.raises(ValueError, match="site 'y' should be drawn in the data plate"):
        kl_per_site(make(CASE["m2-unlabelled"]), x)


@pytest.mark.parametrize("log_var", [-1e4, 1e4])
def test_a_variance_that_would_overflow_is_cut(log_var: float) -> None:
    """And with it the gradient, which otherwise is 0 times infinity."""
    model: Any = VAE(2, 1, (3,))
    with torch.no_grad():
        model.encoder.log_var.bias.fill_(log_var)
    scale = model.encoder(torch.zeros(4, 2)).base_dist.scale
    np.testing.assert_allclose(scale.detach().log(), np.sign(log_var) * 40.0, rtol=1e-5)
    (1 / (1 + scale**-2)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.encoder.parameters() if p.grad is not None)

"""What goes to ArviZ, and that ArviZ can use it."""

import sys
from pathlib import Path
from typing import Any

import linear_gaussian as exact
import matplotlib as mpl
import numpy as np
import pytest
import torch
from support import CASE, make, run_python

from ppl_vae.inference import pareto_k, to_arviz
from ppl_vae.models import HierarchicalVAE, Model

az = pytest.importorskip("ppl_vae.shared.evaluation.optional_packages").arviz()
mpl.use("Agg")


def hierarchical() -> tuple[HierarchicalVAE, np.ndarray]:
    model: Any = make(CASE["hierarchical"])
    return model, CASE["hierarchical"].inputs(0)[0][:5]


def test_groups_have_the_names_and_dimensions_of_the_sites() -> None:
    model, x = hierarchical()
    found = to_arviz(model, x, k=7, batch_size=2)
    sizes = {
        (group, name): dict(zip(values.dims, values.shape, strict=True))
        for group, dataset in found.items()
        for name, values in dataset.data_vars.items()
    }
    draws = {"chain": 1, "draw": 7, "data": 5}
    latents = {"z_1": {**draws, "z_1_unit": 3}, "z_2": {**draws, "z_2_unit": 2}}
    assert sizes == {
        **{(group, name): latents[name] for group in ("posterior", "prior") for name in latents},
        ("posterior_predictive", "x"): {**draws, "x_unit": 6},
        ("prior_predictive", "x"): {**draws, "x_unit": 6},
        ("log_likelihood", "x"): draws,
        ("sample_stats", "lp"): draws,
        ("sample_stats", "log_weight"): draws,
        ("observed_data", "x"): {"data": 5, "x_unit": 6},
    }
    np.testing.assert_array_equal(found.observed_data["x"], x)
    assert found.posterior.attrs["draws_of"] == "q(z | x)"
    assert set(to_arviz(model, x, k=2, predictive=False).groups()).isdisjoint(
        {"posterior_predictive", "prior_predictive"}
    )


def test_numbers_are_those_of_the_model() -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    found = to_arviz(model, x, k=50, batch_size=3)
    z = torch.tensor(found.posterior["z"].values[0])
    with torch.no_grad():
        log_p_x = model.decoder(z).log_prob(x)
        lp = log_p_x + model.prior().log_prob(z)
    np.testing.assert_allclose(found.log_likelihood["x"][0], log_p_x, atol=1e-10)
    np.testing.assert_allclose(found.sample_stats["lp"][0], lp, atol=1e-10)
    evidence = exact.log_evidence(model, x).detach().expand(50, 4)
    np.testing.assert_allclose(found.sample_stats["log_weight"][0], evidence, atol=1e-10)


def check_moments(draws: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
    """Of draws (k, n, units), within 4.5 standard errors and small ones."""
    k = len(draws)
    assert (np.abs(draws.mean(0) - mean) < 4.5 * (variance / k) ** 0.5).all()
    assert (np.abs(draws.var(0) / variance - 1) < 4.5 * (2 / k) ** 0.5).all()


def test_draws_are_those_of_guide_prior_and_predictive_distributions() -> None:
    model, x = exact.conjugate(exact=True), exact.data()
    found = to_arviz(model, x, k=4000)
    q = model.encoder(x)
    mean, variance = q.mean.detach().numpy(), q.variance.detach().numpy()
    check_moments(found.posterior["z"].values[0], mean, variance)
    check_moments(found.prior["z"].values[0], np.zeros((4, 2)), np.ones((4, 2)))
    weight, bias = (v.detach().numpy() for v in model.decoder.loc.parameters())
    noise = np.full((4, 3), 0.4)
    check_moments(
        found.posterior_predictive["x"].values[0],
        mean @ weight.T + bias,
        variance @ weight.T**2 + noise,
    )
    check_moments(
        found.prior_predictive["x"].values[0],
        np.tile(bias, (4, 1)),
        np.tile((weight**2).sum(1), (4, 1)) + noise,
    )


def wide() -> Model:
    """Three times the posterior's scale and a mean that is off: bounded weights."""
    model = exact.conjugate(exact=True)
    with torch.no_grad():
        model.encoder.log_var.bias.add_(2 * np.log(3.0))
        model.encoder.loc.bias.add_(0.3)
    return model


def test_resampled_draws_are_those_of_the_posterior() -> None:
    model, x = wide(), exact.data()
    found = to_arviz(model, x, k=20_000, resample=True, predictive=False)
    assert found.posterior.attrs["draws_of"].startswith("p(z | x), by importance resampling")
    z = found.posterior["z"].values[0]
    p = exact.posterior(model, x)
    mean, variance = p.mean.detach().numpy(), p.variance.detach().numpy()
    # About a ninth of 20000 draws are worth as much as draws from the posterior.
    assert (np.abs(z.mean(0) - mean) < 0.1 * variance**0.5).all()
    assert (np.abs(z.var(0) / variance - 1) < 0.15).all()
    with torch.no_grad():  # the groups belong together
        log_p_x = model.decoder(torch.tensor(z)).log_prob(x)
    np.testing.assert_allclose(found.log_likelihood["x"][0], log_p_x, atol=1e-10)
    guide = to_arviz(model, x, k=20_000, predictive=False).posterior["z"].values[0]
    assert (guide.var(0) > 5 * variance).all()


@pytest.mark.parametrize("name", ["m2-labelled", "m2-unlabelled", "sbn-categorical", "cvae"])
def test_discrete_latents_labels_and_conditions(name: str) -> None:
    found = to_arviz(make(CASE[name]), CASE[name].inputs(0), k=100, resample=True)
    log_p = sum(found.log_likelihood.data_vars.values())
    assert np.isfinite(log_p).all()
    if name == "m2-unlabelled":
        assert set(np.unique(found.posterior["y"])) == {0, 1, 2}
    if name == "m2-labelled":
        assert set(found.log_likelihood.data_vars) == {"x", "y"}


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ's own
def test_arviz_summarises_compares_and_draws() -> None:
    import matplotlib.pyplot as plt

    model, x = exact.conjugate(exact=True), exact.data()
    with torch.no_grad():  # so much noise that leaving out a datum changes little
        model.decoder.log_var.bias.fill_(3.0)
        for part in model.encoder.parameters():
            part.zero_()
    found = to_arviz(model, x, k=400)
    table = az.summary(found, var_names=["z"], kind="stats")
    assert len(table) == 8
    np.testing.assert_allclose(
        table["mean"], found.posterior["z"].mean("draw").values.ravel(), atol=1e-3
    )
    loo = az.loo(found, pointwise=True)
    evidence = exact.log_evidence(model, x).detach().numpy()
    np.testing.assert_allclose(loo.loo_i, evidence, atol=0.1)
    az.plot_ppc(found, num_pp_samples=10)
    az.plot_ppc(found, group="prior", num_pp_samples=10)
    az.plot_posterior(found, var_names=["z"], coords={"data": 0})
    plt.close("all")


def test_without_arviz_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz", None)
    for function in (to_arviz, pareto_k):
        with pytest.raises(ImportError, match=r"pip install 'ppl_vae\[diagnostics\]'"):
            function(exact.vae(), exact.data(), k=100)


def test_the_warning_of_releases_to_come_is_silent(tmp_path: Path) -> None:
    program = f"""
import os, warnings
os.environ["XDG_CACHE_HOME"] = {str(tmp_path)!r}
warnings.simplefilter("error")
from ppl_vae.shared.evaluation.optional_packages import arviz
print(arviz().__name__)
"""
    assert run_python(program).strip() == "arviz"
    assert list(tmp_path.rglob("daily_warning"))  # it was given

"""The table of all measurements, and the rule of each verdict."""

from dataclasses import replace
from typing import Any

import linear_gaussian as exact
import numpy as np
import pyro
import pytest
import torch
from support import CASE, make
from torch import Tensor

from ppl_vae.inference import diagnose
from ppl_vae.inference.evaluation.log_likelihood import log_likelihood
from ppl_vae.models import Model
from ppl_vae.shared.evaluation.active_units import ActiveUnits
from ppl_vae.shared.evaluation.calibration import Calibration
from ppl_vae.shared.evaluation.diagnosis import Diagnosis
from ppl_vae.shared.evaluation.elbo_surgery import ElboSurgery
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.pareto_k import ParetoK
from ppl_vae.shared.evaluation.posterior_collapse import PosteriorCollapse


def verdicts(found: Diagnosis) -> dict[str, str]:
    table = str(found).splitlines()
    assert table[0].split() == ["measure", "value", "verdict"]
    assert len(table) == len(found.lines) + 1
    return {name: verdict for name, _, verdict in found.lines}


def simulated(n: int = 100) -> tuple[Model, Tensor]:
    """The exact posterior, and data of the model."""
    model = exact.conjugate(exact=True)
    return model, model.simulate(torch.zeros(n, 3).double())["x"]


def test_the_exact_posterior_is_found_good() -> None:
    model, x = simulated()
    found = diagnose(model, x)
    np.testing.assert_allclose(found.gap.values, 0.0, atol=1e-9)
    np.testing.assert_allclose(found.gap.errors, 0.0, atol=1e-6)
    evidence = exact.log_evidence(model, x).detach()
    np.testing.assert_allclose(found.log_likelihood.values, evidence, atol=1e-9)
    assert {verdict for _, _, verdict in found.lines} == {"good"}


def test_bound_and_likelihood_are_those_of_the_model() -> None:
    model, x = exact.conjugate(exact=False), exact.data()
    found = diagnose(model, x, k=2000)
    bound = exact.bound(model, x).detach().numpy()
    assert (abs(found.elbo.values - bound) < 4 * found.elbo.errors).all()
    assert abs(found.elbo.mean - bound.mean()) < 4 * found.elbo.monte_carlo_error
    likelihood = log_likelihood(model, x, k=2000)
    errors = np.hypot(found.log_likelihood.errors, likelihood.errors)
    assert (abs(found.log_likelihood.values - likelihood.values) < 5 * errors).all()
    assert found.kl == pytest.approx(exact.kl(model, x).mean().item())


def test_a_narrow_guide_is_found() -> None:
    model, x = simulated()
    with torch.no_grad():
        model.encoder.log_var.bias.sub_(4.0)
    found = verdicts(diagnose(model, x))
    assert found["k-hat"].startswith("poor: weights")
    assert found["log p(x) - ELBO"].startswith("poor: the guide is far")
    assert found["ranks of z"].startswith("poor: the guide is narrower than p(z | x)")
    assert found["log p(x)"].startswith("poor: error")
    assert found["active units of z"] == "good"


def test_a_collapsed_guide_is_found() -> None:
    model, x = simulated()
    with torch.no_grad():
        for layer in (model.encoder.loc, model.encoder.log_var):
            layer.weight.zero_()
            layer.bias.zero_()
    found = verdicts(diagnose(model, x))
    assert found["active units of z"].startswith("poor: 2 units are idle")
    assert found["collapsed units of z"].startswith("poor: most are their prior")
    assert found["KL of z"].startswith("poor: the site tells nothing")
    assert found["ranks of z"] == "good"


def test_a_conditional_model_has_no_surgery() -> None:
    found = verdicts(diagnose(make(CASE["cvae"]), CASE["cvae"].inputs(0)))
    assert found["mutual information"] == "none: the prior depends on a condition"
    assert found["KL(q(z) || p(z))"] == "none: the prior depends on a condition"


def test_a_bottom_up_guide_has_no_line_of_collapse_for_its_first_layer() -> None:
    found = verdicts(diagnose(make(CASE["hierarchical"]), CASE["hierarchical"].inputs(0)))
    assert "collapsed units of z_1" not in found
    assert "collapsed units of z_2" in found


def constant(value: float, error: float = 0.0, n: int = 100) -> Estimate:
    return Estimate(np.full(n, value), np.full(n, error))


def good(**changes: Any) -> Diagnosis:
    """A diagnosis without anything poor: a KL term of 20 nats, 4 units."""
    units = np.array([1.0, 1.0, 0.0, 0.0])
    active = ActiveUnits({"z": units}, {"z": units}, 0.01)
    shares = {"z": 1.0 - units}
    collapse = PosteriorCollapse(
        {"z": constant(20.0)}, {"z": 10 * units}, {"z": units}, shares, active, 0.01, 0.01
    )
    found = Diagnosis(
        elbo=constant(-101.98),  # errors of 0.09 make 0.009 of the mean gap
        log_likelihood=constant(-100.0, 0.09),
        collapse=collapse,
        surgery=ElboSurgery(constant(20.0, n=10**6), constant(12.0, n=10**6)),
        pareto_k=ParetoK(np.r_[np.full(90, 0.69), np.full(10, 0.71)], 500),
        calibration=Calibration({"z": np.tile(np.arange(100), 10)[:, None]}, 99, 20),
    )
    return replace(found, **changes)


def surgery(kl: float, mutual: float) -> ElboSurgery:
    return ElboSurgery(constant(kl, n=10**6), constant(mutual, n=10**6))


def collapse(kl: float, units: list[float]) -> PosteriorCollapse:
    active = ActiveUnits({"z": np.array(units)}, {"z": np.array(units)}, 0.01)
    shares = {"z": 1.0 - np.array(units)}
    parts = {"z": np.array(units)}
    return PosteriorCollapse({"z": constant(kl)}, parts, parts, shares, active, 0.01, 0.01)


POOR: dict[str, tuple[dict[str, Any], str, str]] = {
    "elbo": ({"elbo": constant(-np.inf)}, "ELBO", "poor: q(z | x) has draws where"),
    "error": ({"log_likelihood": constant(-100.0, 0.11)}, "log p(x)", "poor: error 0.11"),
    "elbo of noise": ({"elbo": constant(-101.0, 1.0)}, "ELBO", "poor: error 0.10 of the mean"),
    "gap": ({"elbo": constant(-102.02)}, "log p(x) - ELBO", "poor: the guide is far"),
    "gap near the limit": (
        {"elbo": constant(-102.01)},
        "log p(x) - ELBO",
        "not known: error 0.009 by draws, so near the limit 2.00; raise k",
    ),
    "gap below the limit": ({"elbo": constant(-101.99)}, "log p(x) - ELBO", "not known: error"),
    "gap of noise": ({"elbo": constant(-101.5, 3.0)}, "log p(x) - ELBO", "not known: error 0.3"),
    "kl": ({"collapse": collapse(0.09, [1.0])}, "KL of z", "poor: the site tells nothing"),
    "idle": ({"collapse": collapse(20.0, [1.0, 0.0, 0.0])}, "active units of z", "poor: 2 units"),
    "collapsed": (
        {"collapse": collapse(20.0, [1.0, 0.0, 0.0])},
        "collapsed units of z",
        "poor: most are their prior",
    ),
    "mutual": ({"surgery": surgery(20.0, 9.9)}, "mutual information", "poor: the latents tell"),
    "marginal": ({"surgery": surgery(14.1, 12.0)}, "KL(q(z) || p(z))", "poor: samples from p(z)"),
    "limit": ({"surgery": surgery(20.0, 13.4)}, "KL(q(z) || p(z))", "not known: the mutual"),
    "k-hat": ({"pareto_k": ParetoK(np.array([0.6] * 8 + [0.8]), 500)}, "k-hat", "poor: weights"),
    "wide": (
        {"calibration": Calibration({"z": np.tile(np.arange(40, 60), 50)[:, None]}, 99, 20)},
        "ranks of z",
        "poor: the guide is wider than p(z | x)",
    ),
    "off": (
        {"calibration": Calibration({"z": np.tile([18, 19, 20, 21], 250)[:, None]}, 99, 20)},
        "ranks of z",
        "poor: the guide is of another shape than p(z | x)",
    ),
}


def test_at_the_limits_it_is_good() -> None:
    found = verdicts(good(surgery=surgery(14.0, 12.0)))
    assert set(found.values()) == {"good"}
    found = verdicts(good(elbo=constant(-101.0 + 0.02), collapse=collapse(5.0, [1.0])))
    assert found["log p(x) - ELBO"] == "good"  # one nat is little whatever the KL term
    sure = {"log_likelihood": constant(-100.0), "elbo": constant(-102.0)}
    assert verdicts(good(**sure))["log p(x) - ELBO"] == "good"
    assert verdicts(good(elbo=constant(-101.98, 0.99)))["ELBO"] == "good"


@pytest.mark.parametrize("what", POOR)
def test_what_is_poor_is_said(what: str) -> None:
    changes, line, says = POOR[what]
    found = verdicts(good(**changes))
    assert found[line].startswith(says)


def test_what_is_not_a_number_is_refused() -> None:
    model, x = simulated(5)
    with torch.no_grad():
        model.decoder.loc.bias.fill_(torch.nan)
    says = "log weights should be numbers, were not for 5 of 5 data"
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=says):
        diagnose(model, x)

"""Simulation-based calibration of guides that are exact, and of guides that are not."""

from typing import Any

import linear_gaussian as exact
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from support import CASE, make
from torch import Tensor, nn

from ppl_vae import plots
from ppl_vae.inference import calibration
from ppl_vae.models import SBN, Model
from ppl_vae.shared.evaluation.calibration import Calibration, holm

X = np.zeros((1, exact.X_DIM))


def conjugate(*, log_scale: float = 0.0, shift: float = 0.0) -> Model:
    """The exact posterior, but for its scale or its mean."""
    model = exact.conjugate(exact=True)
    with torch.no_grad():
        model.encoder.log_var.bias.add_(2 * log_scale)
        model.encoder.loc.bias.add_(shift)
    return model


def test_the_exact_posterior_has_uniform_ranks() -> None:
    found = calibration(conjugate(), n=2000)
    assert found.ranks["z"].shape == (2000, 2)
    assert not found.uneven()["z"].any()
    assert (found.adjusted["z"] > 0.05).all()
    assert np.abs(found.spread["z"] - 1).max() < 0.1
    assert found.ranks["z"].min() == 0
    assert found.ranks["z"].max() == 99
    assert np.abs(np.corrcoef(found.ranks["z"].T)[0, 1]) < 0.1
    assert "z: 0 of 2 units not uniform" in str(found)


def test_a_narrow_guide_has_ranks_like_a_u_and_a_wide_one_like_a_hill() -> None:
    narrow = calibration(conjugate(log_scale=np.log(0.5)))
    assert narrow.uneven()["z"].all()
    assert (narrow.spread["z"] > 1.3).all()
    for counts in narrow.counts["z"]:
        assert min(counts[0], counts[-1]) > 2 * counts[5:15].max()
    wide = calibration(conjugate(log_scale=np.log(2.0)))
    assert wide.uneven()["z"].all()
    assert (wide.spread["z"] < 0.7).all()


def test_a_guide_that_is_off_has_ranks_on_one_side() -> None:
    ranks = calibration(conjugate(shift=0.4)).ranks["z"]
    assert (ranks.mean(0) < 40).all()  # more draws above the truth than below it


def test_the_expected_ranks_of_a_scaled_guide_are_known() -> None:
    """P(z_i < z) = Phi(e / 0.5), e ~ N(0, 1): the mean square of ranks follows."""
    e = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    p = stats.norm.cdf(e / 0.5)
    mean_square = (99 * p * (1 - p) + 99**2 * (p - 0.5) ** 2).mean()
    expected = mean_square / ((100**2 - 1) / 12)
    found = calibration(conjugate(log_scale=np.log(0.5)), n=4000).spread["z"]
    np.testing.assert_allclose(found, expected, atol=0.06)


def test_p_values_are_pearsons_and_corrected_by_holm() -> None:
    rng = np.random.default_rng(0)
    ranks = {"a": rng.integers(0, 20, (300, 2)), "b": rng.integers(0, 20, (300, 1))}
    found = Calibration(ranks, k=19, bins=5)
    raw = []
    for value in ranks.values():
        for unit in value.T:
            counts = np.histogram(unit, [0, 4, 8, 12, 16, 20])[0]
            raw.append(stats.chisquare(counts).pvalue)
    np.testing.assert_allclose(np.concatenate(list(found.p_values.values())), raw)
    smallest = min(raw)
    assert min(v.min() for v in found.adjusted.values()) == pytest.approx(min(1, 3 * smallest))
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.9, 0.6])), [1.0, 1.0])


@torch.no_grad()
def independent_sbn() -> SBN:
    """x tells nothing of z, so that the posterior is the prior, and so is the guide."""
    model = SBN(3, (2, 2))
    for name, parameter in model.named_parameters():
        if "weight" in name or "encoders" in name or "conditionals" in name:
            parameter.zero_()
    return model


def test_equal_draws_of_discrete_latents_do_not_bias_the_ranks() -> None:
    found = calibration(independent_sbn(), n=1000)
    assert set(found.ranks) == {"z_1", "z_2"}
    assert not any(uneven.any() for uneven in found.uneven().values())
    assert np.abs(found.spread["z_1"] - 1).max() < 0.15


def test_conditions_are_taken_from_the_data() -> None:
    """p(x | c, z) does not depend on z: the guide that is the prior is the posterior."""
    model = make(CASE["gsnn"])
    data = CASE["gsnn"].inputs(0)
    with torch.no_grad():
        model.decoder.trunk.layers[0].weight.zero_()
        model.prior.loc.weight.mul_(20)  # the prior depends on c, so it must be the same c
    assert not calibration(model, data=data).uneven()["z"].any()
    with pytest.raises(ValueError, match=r"data should hold the conditions .*\(c\).*was None"):
        calibration(model)


def test_what_is_simulated_takes_the_place_of_data() -> None:
    model: Model = conjugate()
    one, two = (calibration(model, n=100, data=x) for x in (X, X + 7.0))
    np.testing.assert_array_equal(one.ranks["z"], two.ranks["z"])
    x, y = CASE["m2-labelled"].inputs(0)
    model = make(CASE["m2-labelled"])
    given = calibration(model, n=100, data=(x, y))
    assert list(given.ranks) == ["z"]
    other = calibration(model, n=100, data=(x, np.zeros_like(y)))
    np.testing.assert_array_equal(given.ranks["z"], other.ranks["z"])
    assert list(calibration(model, n=100).ranks) == ["y", "z"]


def test_draws_do_not_repeat_the_noise_of_the_simulation() -> None:
    """A guide that is the prior but for a shift, which would decide were all else the same."""
    model = exact.vae()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder.loc.bias.fill_(1e-3)
    ranks = calibration(model, n=100, k=1, bins=2).ranks["z"]
    assert (np.abs(ranks.mean(0) - 0.5) < 0.25).all()


class Renamed(Model):
    """An observed site that is named otherwise than the argument."""

    def __init__(self) -> None:
        super().__init__()
        self.x_dim, self.loc = 1, nn.Parameter(torch.zeros(()))

    def model(self, data: Tensor) -> None:
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data[:, 0])

    def guide(self, data: Tensor) -> None:
        with pyro.plate("data", len(data)):
            pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_wrong_input_is_named() -> None:
    for wrong, says in (
        ({"n": 99}, "n should be a whole number of at least 100, was 99"),
        ({"k": 100}, r"k \+ 1 should be a multiple of bins \(20\).*was 101"),
        ({"bins": 1}, "bins should be a whole number of at least 2, was 1"),
    ):
        arguments: Any = wrong
        with pytest.raises(ValueError, match=says):
            calibration(conjugate(), **arguments)
    with pytest.raises(ValueError, match=r"names of arguments of model.*\['data'\].*\['x'\]"):
        calibration(Renamed(), data=torch.zeros(5, 1))
    with pytest.raises(ValueError, match=r"x should have shape \(n, 3\)"):
        calibration(conjugate(), data=np.zeros((4, 2)))


def test_it_costs_no_random_numbers_and_is_the_same_for_a_seed() -> None:
    model = conjugate()
    before = torch.get_rng_state()
    one, two = (calibration(model, n=100, batch_size=b).ranks["z"] for b in (100, 100))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, calibration(model, n=100, seed=1).ranks["z"])


def test_the_picture_shows_the_counts_of_each_unit() -> None:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    found = calibration(conjugate(), n=100, k=19, bins=5)
    assert plots.ranks(found, ax) is ax
    drawn = [line.get_ydata() for line in ax.lines]
    np.testing.assert_array_equal(np.sort(drawn, 0), np.sort(found.counts["z"], 0))
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1.5, 5.5, 9.5, 13.5, 17.5])
    plt.close(figure)


def test_the_picture_names_the_units_that_are_worst() -> None:
    """Of 200 ranks each, some are moved to the first bin of ten: 5 i of unit i."""
    import matplotlib.pyplot as plt

    even = np.arange(200) % 20

    def moved(number: int) -> np.ndarray:
        return np.where(np.arange(200) % 20 * 10 + np.arange(200) // 20 < number, 0, even)

    units = np.stack([moved(number) for number in (0, 90, 120, 0, 60, 150, 180)], 1)
    found = Calibration({"z_1": units[:, :3], "z_2": units[:, 3:]}, 19, 10)
    assert {name: list(u) for name, u in found.uneven().items()} == {
        "z_1": [False, True, True],
        "z_2": [False, True, True, True],
    }
    ax = plots.ranks(found)
    named = {str(line.get_label()): line for line in ax.lines}
    legend = ["z_2, unit 3", "z_2, unit 2", "z_1, unit 2", "z_1, unit 1"]
    legend += ["1 more not uniform", "2 uniform"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == legend
    assert len({named[name].get_color() for name in legend}) == len(legend)
    for name, unit in zip(legend[:4], (6, 5, 2, 1), strict=True):
        counts = np.bincount(units[:, unit] // 2, minlength=10)
        np.testing.assert_array_equal(named[name].get_ydata(), counts)
    assert len(ax.lines) == 7
    assert [line.get_color() for line in ax.lines[4:]] == ["0.0", "0.6", "0.6"]
    plt.close(ax.figure)

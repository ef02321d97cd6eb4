"""Every function of `shared/checks.py`: the message names the argument, its value and what fits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bad_calls import NAN, X, Y

from ppl_vae.data import NormalFeatures
from ppl_vae.shared import checks
from ppl_vae.shared.objectives.renyi import check_alpha, check_order

INF, NOT_A_NUMBER = float("inf"), float("nan")


def matrix(value: Any, low: float = 0.0, high: float = 1.0) -> Callable[[], None]:
    return lambda: checks.check_matrix("x", value, 6, low, high)


def labels(value: Any, **more: bool) -> Callable[[], None]:
    return lambda: checks.check_labels("y", value, 3, **more)


def of_test_data() -> None:
    with checks.prefix_errors("test"):
        checks.check_matrix("x", X[:, 1:], 6)


Y_7 = np.where(np.arange(24) == 3, 7, Y)
CHECKS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "lengths none": (checks.check_lengths, (), "data should be at least one array, was empty"),
    "lengths list": (
        checks.check_lengths,
        (X.tolist(),),
        r"data should be arrays of shape \(n, \.\.\.\), held list",
    ),
    "lengths scalar": (checks.check_lengths, (X[0, 0],), r"data .*, held float32 of shape \(\)"),
    "lengths None": (checks.check_lengths, (None,), "data .*held NoneType"),
    "lengths empty": (checks.check_lengths, (X[:0],), "data should hold at least one datum, was"),
    "lengths": (checks.check_lengths, (X, Y[:5]), r"data .*one length, had the lengths \[24, 5\]"),
    "arguments": (checks.check_arguments, ((X, Y), ("x",)), r"data should be \(x\), had 2 arrays"),
    "arguments of two forms": (
        checks.check_arguments,
        ((X, Y, Y), ("x",), ("x", "y")),
        r"data should be \(x\) or \(x, y\), had 3 arrays",
    ),
    "matrix width": (matrix(X[:, :5]), (), r"x should have shape \(n, 6\), had \(24, 5\)"),
    "matrix 3-d": (matrix(X.reshape(24, 2, 3)), (), r"x .*\(n, 6\), had \(24, 2, 3\)"),
    "matrix vector": (matrix(X[0]), (), r"x should have shape \(n, 6\), had \(6,\)"),
    "matrix uint8": (matrix((255 * X).astype(np.uint8)), (), "x .*a floating type, was uint8"),
    "matrix tensor": (matrix(torch.as_tensor(X).int()), (), "x .*a floating type, was int32"),
    "matrix bool": (matrix(X > 0.5), (), "x should be of a floating type, was bool"),
    "matrix text": (matrix(X.astype(str)), (), "x should be of a floating type, was <U"),
    "matrix complex": (matrix(X + 1j), (), "x should be of a floating type, was complex"),
    "matrix high": (matrix(255 * X), (), r"x should lie in \[0, 1\], lay in \[0, 255\]"),
    "matrix low": (matrix(X - 0.5), (), r"x should lie in \[0, 1\], lay in \[-0.5, 0.5\]"),
    "matrix NaN": (matrix(NAN), (), "x should be finite, held NaN"),
    "matrix infinite": (matrix(np.where(X > 0, INF, X), -INF, INF), (), "x should be finite"),
    "matrix resampled": (
        matrix(NormalFeatures(X, X)),
        (),
        r"x should lie in \[0, 1\], was NormalFeatures, .* drawn from \(-inf, inf\)",
    ),
    "matrix resampled width": (
        matrix(NormalFeatures(X[:, 1:], X[:, 1:])),
        (),
        r"x should have shape \(n, 6\), had \(24, 5\)",
    ),
    "prefix": (of_test_data, (), "test should be data like those of the model, but x should have"),
    "labels above": (labels(Y_7), (), "y should be classes 0 to 2, held 0 to 7"),
    "labels below": (labels(Y - 1), (), "y should be classes 0 to 2, held -1 to 1"),
    "labels unlabelled": (
        labels(Y - 2, unlabelled=True),
        (),
        r"y should be classes 0 to 2 or -1 \(unlabelled\), held -2 to 0",
    ),
    "labels floating": (labels(Y / 1.0), (), "y should be of an integer type, was float64"),
    "labels one-hot": (labels(np.eye(3)[Y]), (), r"y should have shape \(n,\), had \(24, 3\)"),
    "condition width": (checks.check_condition, ("c", X, 3), r"c should have shape \(n, 3\), had"),
    "condition NaN": (checks.check_condition, ("c", NAN, 6), "c should be finite, held NaN"),
    "condition class": (
        checks.check_condition,
        ("c", Y + 1, 3),
        "c should be classes 0 to 2, held",
    ),
    "mask width": (checks.check_mask, ("m", X > 0.5, 5), r"m should have shape \(n, 5\), had"),
    "mask numbers": (checks.check_mask, ("m", X, 6), "m should be of a boolean type, was float32"),
    **{
        f"whole {value!r}": (
            checks.check_whole,
            ("k", value, 1),
            f"k should be a whole number of at least 1, was {value!r}",
        )
        for value in (0, -1, 1.5, 2.0, True, "3", None, NOT_A_NUMBER)
    },
    "dims": (lambda: checks.check_dims(x_dim=3, z_dim=0), (), "z_dim should be .* 1, was 0"),
    **{
        f"positive {value!r}": (
            checks.check_positive,
            ("lr", value),
            f"lr should be a positive number, was {value!r}",
        )
        for value in (0.0, -1e-3, NOT_A_NUMBER, INF, "0.1", None)
    },
    **{
        f"at_least {value!r}": (
            checks.check_at_least,
            ("beta", value, 0),
            f"beta should be at least 0, was {value!r}",
        )
        for value in (-1.0, NOT_A_NUMBER, "1", None)
    },
    "at_least inf": (checks.check_at_least, ("beta", INF, 0), "beta should be finite, was inf"),
    **{
        f"fraction {value!r}": (
            checks.check_fraction,
            ("decay", value),
            rf"decay should be a number in \[0, 1\], was {value!r}",
        )
        for value in (1.5, -0.5, NOT_A_NUMBER, "1")
    },
    "alpha 1": (check_alpha, (1.0,), "alpha should not be 1.*use ELBO"),
    **{
        f"alpha {value!r}": (
            check_alpha,
            (value,),
            f"alpha should be a number or -inf, was {value!r}",
        )
        for value in (INF, NOT_A_NUMBER, "a")
    },
    **{
        f"order {value!r}": (check_order, (value,), f"n should be a number above 1, was {value!r}")
        for value in (1.0, INF, "2")
    },
    "type": (
        checks.check_type,
        ("model", "vae", dict, "a Model"),
        "model should be a Model, was str",
    ),
    "type class": (
        checks.check_type,
        ("model", NormalFeatures, dict, "a Model"),
        r"model should be a Model, was the class ppl_vae\.data\.features\.NormalFeatures",
    ),
    **{
        f"choice {value!r}": (
            checks.check_choice,
            ("on_nan", value, ("stop", "skip")),
            "on_nan should be stop or skip, was",
        )
        for value in ("ignore", None, ["stop"])
    },
    **{
        f"flag {value!r}": (
            checks.check_flag,
            ("resume", value),
            f"resume should be True or False, was {value!r}",
        )
        for value in ("False", 1, None)
    },
    **{
        f"compile {value!r}": (
            checks.check_compile,
            (value,),
            f"compile should be True, False or 'auto', was {value!r}",
        )
        for value in ("yes", 1, None)
    },
    **{
        f"seed {value!r}": (
            checks.check_seed,
            (value,),
            f"seed should be a whole number of at least 0, was {value!r}",
        )
        for value in (-1, "a", None, 1.0)
    },
    "seed large": (checks.check_seed, (2**32,), r"seed should be below 2\*\*32, was 4294967296"),
    "hidden number": (checks.check_hidden, (4,), "hidden should be a sequence of sizes, was 4"),
    "hidden 0": (checks.check_hidden, ((4, 0),), "each of hidden should be .* 1, was 0"),
    "hidden half": (checks.check_hidden, ((2.5,),), "each of hidden should be .*was 2.5"),
    "dropout number": (checks.check_dropout, (0.5,), r"dropout .*two rates in \[0, 1\), was 0.5"),
    "dropout 1": (checks.check_dropout, ((0.0, 1.0),), r"dropout .*was \(0.0, 1.0\)"),
    "dropout of three": (checks.check_dropout, ((0.0, 0.1, 0.2),), "dropout should be two rates"),
    "batch of 1": (checks.check_batch, (1,), "batch should hold at least 2 values .*held 1"),
    "layers number": (checks.check_layers, (2, ((4,),)), "z_dims should be a sequence .*was 2"),
    "layers hidden": (checks.check_layers, ((2,), 4), "hidden should be a sequence .*was 4"),
    "layers none": (checks.check_layers, ((), ()), r"z_dims should hold .*was \(\)"),
    "layers half": (
        checks.check_layers,
        ((3, 2.5), ((4,), (4,))),
        "each of z_dims should be a whole number of at least 1, was 2.5",
    ),
    "layers too few": (checks.check_layers, ((3, 2), ((4,),)), "hidden .* each of the 2.*had 1"),
    "layers flat": (
        checks.check_layers,
        ((3, 2), (4, 4)),
        r"hidden should be a sequence of sizes for each layer, was \(4, 4\)",
    ),
}


"""Rows: the check's name without `check_` and what is wrong; the check, its arguments, the message.
"""


def test_every_check_has_a_row() -> None:
    names = {name.removeprefix("check_") for name in vars(checks) if name.startswith("check_")}
    assert names <= {row.split()[0] for row in CHECKS}


@pytest.mark.parametrize("name", sorted({row.split()[0] for row in CHECKS}))
def test_one_line_that_names_the_argument(name: str) -> None:
    for row, (check, arguments, words) in CHECKS.items():
        if row.split()[0] == name:
            with pytest.raises(ValueError, match=f"^{words}") as caught:
                check(*arguments)
            assert "\n" not in str(caught.value), row


def test_right_values_are_accepted() -> None:
    matrix(X)()
    matrix(torch.as_tensor(X))()
    labels(np.where(Y == 1, -1, Y), unlabelled=True)()
    checks.check_condition("c", Y, 3)
    checks.check_condition("c", X, 6)
    checks.check_mask("m", X > 0.5, 6)
    checks.check_whole("k", np.int64(1), 1)
    checks.check_at_least("beta", 0, 0)
    checks.check_fraction("decay", 1)
    check_alpha(-INF)
    checks.check_seed(2**32 - 1)
    checks.check_hidden(())
    checks.check_layers((2,), ((),))

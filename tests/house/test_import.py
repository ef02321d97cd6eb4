"""Importing costs nothing, and the Pyro side never needs the other backend."""

import subprocess
from pathlib import Path

import pytest
from support import run_python

import ppl_vae

HEAVY = ("torch", "pyro", "jax", "numpyro", "equinox", "sklearn", "matplotlib", "safetensors")
SIDES = "import sys; print([name for name in {names} if name in sys.modules])"


def imported(program: str, names: tuple[str, ...] = HEAVY) -> list[str]:
    """Which of the packages a fresh interpreter has imported after `program`."""
    return eval(run_python(f"{program}\n{SIDES.format(names=names)}").splitlines()[-1])


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported("import ppl_vae") == []
    assert imported("import ppl_vae; dir(ppl_vae); ppl_vae.__version__") == []


def test_importing_the_package_imports_little() -> None:
    """Counted and not timed, so that a busy machine changes nothing."""
    program = "import sys; old = {*sys.modules}; import ppl_vae; print({*sys.modules} - old)"
    new = eval(run_python(program))
    assert {name for name in new if name.startswith("ppl_vae")} == {"ppl_vae"}
    assert len(new) < 20


@pytest.mark.parametrize(
    "program",
    [
        "from ppl_vae import VAE, M2, ELBO, SemiSupervised, fit",
        "import ppl_vae.models, ppl_vae.inference, ppl_vae.data",
        "from support import CASE, trained; trained(CASE['m2-semi-supervised'])",
    ],
)
def test_the_pyro_side_never_imports_the_other(program: str) -> None:
    names = ("torch", "jax", "jaxlib", "numpyro", "equinox", "optax")
    assert imported(program, names) == ["torch"]


def test_data_need_neither_backend() -> None:
    assert imported("from ppl_vae import digits; digits()", ("torch", "pyro", "jax")) == []


@pytest.mark.parametrize("name", ppl_vae.__all__)
def test_every_name_is_there(name: str) -> None:
    assert name in dir(ppl_vae)
    assert getattr(ppl_vae, name).__module__.startswith("ppl_vae.")
    assert getattr(ppl_vae, name).__name__ == name


@pytest.mark.slow
def test_rooms_are_attributes_and_other_names_are_not() -> None:
    run_python("import ppl_vae as p; p.models.VAE, p.inference.ELBO, p.data.digits, p.M2, p.fit")
    assert {"models", "inference", "data", "numpyro", "parity", "plots"} <= set(dir(ppl_vae))
    with pytest.raises(AttributeError, match="'ppl_vae' has no attribute 'nothing'"):
        _ = ppl_vae.nothing


def test_git_ignores_no_file_of_the_package() -> None:
    root = Path(ppl_vae.__file__).parent.parent
    files = [str(path) for path in (root / "ppl_vae").rglob("*.py")]
    try:
        words = ["git", "-C", str(root), "check-ignore", "--no-index", *files]
        ignored = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if ignored.returncode == 128:
        pytest.skip("not a checkout")
    assert ignored.stdout == ""

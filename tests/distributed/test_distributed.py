"""Several processes train as one does: the same losses, the same weights, one set of files."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import several_processes
import torch
import torch.nn.functional as F
from several_processes import JOBS, VAE_CASE, pixels
from support import PYTHONPATH, make
from torch import Tensor

from ppl_vae.inference import ELBO
from ppl_vae.inference.batch_sums import Shard
from ppl_vae.inference.distributed import processes
from ppl_vae.inference.distributed.processes import Processes
from ppl_vae.inference.distributed.shared_draws import shared_draws
from ppl_vae.shared.io.safetensors_file import read

PROGRAM = Path(several_processes.__file__)
FEW = ["vae", "m2-semi-supervised", "ladder-beta"]
EQUAL = [name for name in JOBS if name not in ("gammas", "stopped", "refused")]


def torchrun(n: int, *program: str | Path, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """`torchrun` of a program with its arguments, on n processes of one thread."""
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    command = [*run, f"--max-restarts={restarts}", *map(str, program)]
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=300)


def results(out: Path, name: str, n: int) -> list[dict[str, np.ndarray]]:
    return [read(out / f"{name}.{rank}.safetensors")[0] for rank in range(n)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process does."""
    out = tmp_path_factory.mktemp("one")
    with pyro.validation_enabled(True):
        several_processes.main(out, *EQUAL, "stopped")
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What two do, and what they print."""
    out = tmp_path_factory.mktemp("two")
    done = torchrun(2, PROGRAM, out, *JOBS)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("four")
    done = torchrun(4, PROGRAM, out, *FEW)
    assert done.returncode == 0, done.stderr
    return out


def assert_equal(found: list[dict[str, np.ndarray]], expected: dict[str, np.ndarray]) -> None:
    """Bit for bit between processes, and what one process finds, but for rounding."""
    assert found
    for arrays in found:
        assert arrays.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(arrays[name], found[0][name], err_msg=name)
            np.testing.assert_allclose(arrays[name], value, rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_are_one(name: str, one: Path, two: tuple[Path, str]) -> None:
    assert_equal(results(two[0], name, 2), results(one, name, 1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_four_processes_are_one(name: str, one: Path, four: Path) -> None:
    """The last batch, of 3, is too small for four: some processes only keep in step."""
    assert_equal(results(four, name, 4), results(one, name, 1)[0])


@pytest.mark.slow
def test_draws_by_rejection_give_all_processes_the_same_weights(two: tuple[Path, str]) -> None:
    first, second = results(two[0], "gammas", 2)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
        assert np.isfinite(value).all()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(
    one: Path, two: tuple[Path, str]
) -> None:
    assert_equal(results(two[0], "stopped", 2), results(one, "stopped", 1)[0])
    assert results(one, "stopped", 1)[0]["code"] == 128 + 15
    assert two[1].count("stopped in epoch 2, batch") == 1


@pytest.mark.slow
def test_the_first_process_alone_writes_and_shows(one: Path, two: tuple[Path, str]) -> None:
    out, shown = two
    assert not (out / "rank1").exists()
    (arrays, text), (others, other_text) = (
        read(folder / "rank0" / "checkpoint.safetensors") for folder in (out, one)
    )
    assert text == other_text
    for name, value in others.items():
        np.testing.assert_allclose(arrays[name], value, rtol=0, atol=1e-9, err_msg=name)
    rows = [(folder / "rank0" / "metrics.csv").read_text().splitlines() for folder in (out, one)]
    assert len(rows[0]) == len(rows[1]) == 1 + 2
    assert shown.count("files: epoch 2/2") == 1


@pytest.mark.slow
def test_another_number_of_processes_goes_on(
    one: Path, two: tuple[Path, str], tmp_path: Path
) -> None:
    found = []
    for out in (one, two[0]):
        shutil.copytree(out / "rank0", tmp_path / out.name / "rank0")
        found.append(several_processes.files(tmp_path / out.name, epochs=3, resume=True))
    assert_equal(found[1:], found[0])
    assert len(found[0]["loss"]) == 3


@pytest.mark.slow
def test_what_is_refused(two: tuple[Path, str]) -> None:
    for rank, arrays in enumerate(results(two[0], "refused", 2)):
        said = {name: bytes(value).decode() for name, value in arrays.items()}
        assert "should be a sum over the data of a batch" in said["sum"], rank
        assert "site 'w' should lie in the data plate" in said["global"]
        assert "their buffer 'mean' of the first batch is not that of one" in said["buffer"]
        assert "data should be the same in all processes" in said["data"]
        assert "settings should be the same in all processes" in said["seed"]
        assert "cannot resume" in said["resume"]


def test_a_parameter_without_a_gradient_in_any_process_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Adam would step one whose gradient is 0; the other process has a gradient of the third."""
    own, unused, elsewhere = (torch.nn.Parameter(torch.tensor(2.0)) for _ in range(3))
    other = torch.tensor([5.0, 1.0, 0.0, 1.0, 3.0, 0.0, 7.0])  # loss, which are used, gradients
    monkeypatch.setattr(processes, "total_of", lambda value, group: value + other)
    parameters = [own, unused, elsewhere]
    loss = Processes(0, 2, torch.device("cpu")).backward(own**2, parameters)
    assert loss == 9.0
    assert [p.grad for p in parameters] == [7.0, None, 7.0]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import several_processes
from several_processes import VAE_CASE, make, pixels, trained
from ppl_vae.shared.io.safetensors_file import write

out = Path(sys.argv[1])
def die(model):
    calls.append(1)
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and several_processes.RANK == 1 and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"calls": float(len(calls))}
calls = []
arrays = trained(make(VAE_CASE), pixels(), out=out / "run", epochs=4, validation=die)
write(out / f"killed.{several_processes.RANK}.safetensors", arrays, {})
"""


@pytest.mark.slow
def test_after_a_process_was_killed_the_run_goes_on(tmp_path: Path) -> None:
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    done = torchrun(2, program, tmp_path, restarts=1)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path, "killed", 2)
    whole = several_processes.trained(make(VAE_CASE), pixels(), epochs=4)
    assert_equal(found, whole)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    calls = [float(row.split(",")[-2]) for row in rows[1:]]
    assert calls in ([1, 2, 1, 2], [1, 2, 3, 1])  # the first two epochs are those before the kill


SIGNALLED = """
import os, signal, sys, time
from pathlib import Path
import several_processes
from several_processes import RANK, VAE_CASE, make, pixels, trained
from ppl_vae.shared.io.safetensors_file import write
from ppl_vae.inference import ELBO

out, batches = Path(sys.argv[1]), []
class Stopping(ELBO):
    def loss_and_state(self, *arguments, **kwargs):
        batches.append(1)
        if len(batches) == 9:  # the first of the second epoch; a cluster may tell all processes
            os.kill(os.getpid(), signal.SIGTERM)
            if RANK == 0:
                os.kill(os.getppid(), signal.SIGTERM)
                time.sleep(2)  # until `torchrun` has passed it on
        return super().loss_and_state(*arguments, **kwargs)
trained(make(VAE_CASE), pixels(), Stopping(), out=out / "run", epochs=3)
"""


@pytest.mark.slow
def test_sigterm_to_torchrun_and_to_all_keeps_the_midst_of_an_epoch(tmp_path: Path) -> None:
    program = tmp_path / "signalled.py"
    program.write_text(SIGNALLED)
    done = torchrun(2, program, tmp_path)
    assert done.returncode == 1
    assert "got signal: 15" in done.stderr  # torchrun's own last words
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.count("stopped in epoch 2, batch") == 1
    assert f"resume=True (--resume) goes on from {str(tmp_path / 'run')!r}" in done.stderr
    text = read(tmp_path / "run" / "checkpoint.safetensors")[1]
    assert (text["epoch"], text["batch"] > 0) == (1, True)
    again = {"out": tmp_path / "run", "epochs": 3, "resume": True}
    stopping = type("Stopping", (ELBO,), {})  # the objective of the run by its name
    resumed = several_processes.trained(make(VAE_CASE), pixels(), stopping(), **again)
    whole = several_processes.trained(make(VAE_CASE), pixels(), epochs=3)
    assert_equal([resumed], whole)


N, D, C = 7, 3, 4


def program(par: Tensor) -> dict[str, Tensor]:
    """Draws of many kinds, for 5 particles of each row of par, shape (n, D, C)."""
    loc, probs = par[..., 0], par[:, 0]
    eye, factor = torch.eye(D).to(par), torch.ones(D, 2).to(par)
    units = dist.Normal(par.transpose(1, 2), 1.0).to_event(1)
    kinds = {
        "normal": dist.Normal(loc, 1.0).to_event(1),
        "prior": dist.Normal(torch.zeros(D), 1.0).to_event(1),
        "lognormal": dist.LogNormal(loc, 1.0).to_event(1),
        "mvn": dist.MultivariateNormal(loc, eye),
        "low-rank": dist.LowRankMultivariateNormal(loc, factor, eye.sum(0)),
        "mixture": dist.MixtureSameFamily(dist.Categorical(logits=probs), units),
        "laplace": dist.Laplace(loc, 1.0).to_event(1),
        "uniform": dist.Uniform(torch.zeros(D), 2.0).to_event(1),
        "exponential": dist.Exponential(loc.exp()).to_event(1),
        "bernoulli": dist.Bernoulli(logits=loc).to_event(1),
        "geometric": dist.Geometric(logits=loc).to_event(1),
        "categorical": dist.Categorical(logits=probs),
        "categoricals": dist.Categorical(logits=par).to_event(1),
        "one-hot": dist.OneHotCategorical(logits=probs),
        "relaxed": dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=probs),
    }
    found = {}
    with pyro.plate("particles", 5, dim=-2), pyro.plate("data", len(par)):
        for name, fn in kinds.items():
            found[name] = pyro.sample(name, fn)
    found["dropout"] = F.dropout(par[..., 0])
    return found


@pytest.mark.parametrize("cuts", [(0, 4, 7), (0, 2, 4, 7)])
def test_each_process_draws_its_rows_of_what_one_draws(cuts: tuple[int, ...]) -> None:
    par = torch.randn(N, D, C, dtype=torch.double)
    pyro.set_rng_seed(1)
    whole, after = program(par), torch.get_rng_state()
    for start, stop in pairwise(cuts):
        pyro.set_rng_seed(1)
        with shared_draws(Shard(start, stop, N, 1.0, "")):
            own = program(par[start:stop])
        assert torch.equal(after, torch.get_rng_state())
        for name, value in whole.items():
            rows = value[start:stop] if name == "dropout" else value[:, start:stop]
            assert torch.equal(own[name], rows), name


@pytest.mark.parametrize("drop", [F.dropout, F.dropout2d])
@pytest.mark.parametrize("cuts", [(0, 4, 7), (0, 2, 4, 7)])
def test_dropout_of_images_is_shared(cuts: tuple[int, ...], drop: Callable[..., Tensor]) -> None:
    """Images of 2 to 4 channels and of 2 to 4 rows of pixels, as many as the data of a process."""
    for channels, height in ((4, 3), (2, 4), (3, 2)):
        x = torch.randn(7, channels, height, 5)
        pyro.set_rng_seed(1)
        whole = drop(x)
        for start, stop in pairwise(cuts):
            pyro.set_rng_seed(1)
            with shared_draws(Shard(start, stop, 7, 1.0, "")):
                assert torch.equal(drop(x[start:stop]), whole[start:stop])


def test_particles_come_before_the_data_that_share_dropout() -> None:
    x = torch.randn(4, 7, 5)
    pyro.set_rng_seed(1)
    whole = F.dropout(x)
    pyro.set_rng_seed(1)
    with shared_draws(Shard(3, 7, 7, 1.0, "")):
        assert torch.equal(F.dropout(x[:, 3:]), whole[:, 3:])


def test_draws_by_rejection_are_each_process_own() -> None:
    states, values = [], []
    for start, stop in ((0, 4), (4, 8)):
        pyro.set_rng_seed(1)
        with shared_draws(Shard(start, stop, 8, 1.0, "")) as sites, pyro.plate("data", 4):
            values.append(pyro.sample("z", dist.Gamma(torch.ones(4, 50), 1.0).to_event(1)))
        assert sites.independent_draws
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert not (values[0] == values[1]).any()


def test_what_takes_random_numbers_otherwise_is_refused() -> None:
    shard = Shard(0, 2, 4, 1.0, "")
    with shared_draws(shard), pytest.raises(ValueError, match="took 2 of 6"):
        pyro.plate("data", 6, subsample_size=2)
    with (
        shared_draws(shard),
        pyro.plate("inner", 2, dim=-2),
        pytest.raises(ValueError, match="data pla"),
    ):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    class Shuffled(dist.Normal):
        def rsample(self, sample_shape: Any = ()) -> Tensor:
            return self.loc[torch.randperm(2)]

    with shared_draws(shard), pyro.plate("data", 2), pytest.raises(ValueError, match="'randperm'"):
        pyro.sample("z", Shuffled(torch.zeros(2), 1.0))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 100])
def test_every_row_belongs_to_one_process(size: int, n: int) -> None:
    shards = [Processes(rank, size, torch.device("cpu")).shard(n) for rank in range(size)]
    rows = [row for s in shards if s.weight for row in range(s.start, s.stop)]
    assert rows == list(range(n))
    assert all(len(shard) >= min(n, 2) for shard in shards)
    sizes = [len(shard) for shard in shards if shard.weight]
    assert max(sizes) - min(sizes) <= 1

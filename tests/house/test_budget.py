"""An expensive test has to be marked."""

import subprocess
import sys

import budget
import pytest


def test_an_unmarked_test_fails_when_it_is_expensive(request: pytest.FixtureRequest) -> None:
    budget.check(request.node, budget.SECONDS)
    with pytest.raises(pytest.fail.Exception, match=r"5\.1 s of CPU time, more than 5 s: mark"):
        budget.check(request.node, budget.SECONDS + 0.1)


@pytest.mark.slow
def test_a_marked_test_may_be_expensive(request: pytest.FixtureRequest) -> None:
    budget.check(request.node, budget.SECONDS + 0.1)


def test_child_processes_are_counted() -> None:
    before = budget.cpu_seconds()
    program = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert budget.cpu_seconds() - before >= 0.45


def test_every_test_is_measured(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.hasplugin("budget")

"""What a test may cost: a pytest plugin that fails an expensive test without the mark `slow`."""

import os
from collections.abc import Generator
from typing import Any

import pytest

SECONDS = 5.0
"""CPU time of a test in the quick tier. Its fixtures are counted by themselves, in its setup."""


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the child processes that it waited for.

    Unlike the time on the wall, it hardly depends on what else the machine does.
    """
    return sum(os.times()[:4])


def check(item: pytest.Item, seconds: float) -> None:
    """Fail the test if a phase of it took too much CPU time."""
    if seconds > SECONDS and item.get_closest_marker("slow") is None:
        pytest.fail(
            f"{seconds:.1f} s of CPU time, more than {SECONDS:g} s: mark the test with "
            "@pytest.mark.slow, or make it cheaper",
            pytrace=False,
        )


def within_budget(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run a phase of a test, and check what it took."""
    before = cpu_seconds()
    result = yield
    spent = cpu_seconds() - before
    item.user_properties.append(("cpu_seconds", round(spent, 2)))  # into the file of --junitxml
    check(item, spent)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from within_budget(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from within_budget(item))

"""What a run shows: a bar in a terminal, a line in a log file, nothing when switched off."""

import sys
from types import SimpleNamespace

import pytest
from fit_support import VAE_CASE, run
from support import make


def test_progress_in_a_log_file_is_a_line_and_none_when_switched_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(make(VAE_CASE), progress=True, label="digits", validation=lambda model: {"error": 0.25})
    shown = capsys.readouterr()
    assert shown.out == ""
    line = shown.err.rstrip("\n")
    assert "\n" not in line
    assert line.startswith("digits: epoch 2/2, loss ")
    assert ", error 0.25, seconds " in line
    run(make(VAE_CASE), progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_in_a_terminal_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(make(VAE_CASE), progress=True, validation=lambda model: {"error": 0.25})
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.rstrip().split("\r")[-1]
    assert last.startswith("VAE: 100%|")
    assert "epoch=2/2, loss=" in last
    assert "error=0.25" in last


def test_progress_in_a_notebook_is_a_bar_and_elsewhere_none_of_its_packages_matters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for shell, bar in ((None, False), (SimpleNamespace(kernel=None), True)):
        ipython = SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
        run(make(VAE_CASE), progress=True)
        assert ("100%|" in capsys.readouterr().err) == bar

"""Where machine code is kept between tests, their child processes, and runs of the suite.

Compiling takes most of the time of the tests of the port and of compiled steps. A test that needs
code of its own sets the environment variable anew, for its child processes.
"""

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".pytest_cache" / "compiled"


def fingerprint() -> str:
    """Return a name for what compiled code depends on: versions, and the processor."""
    parts = [platform.python_version(), platform.machine()]
    for package in ("torch", "jax", "jaxlib"):
        try:
            parts.append(version(package))
        except PackageNotFoundError:  # the port is optional
            parts.append("")
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    parts += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def keep() -> None:
    """Set the caches of inductor and of JAX, before either compiles anything."""
    folder = FOLDER / fingerprint()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "jax")
    # By default JAX keeps only what took a second to compile. Small programs are most of ours.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

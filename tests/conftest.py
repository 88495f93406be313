"""What holds for every test: no network, one thread, the same seed, nothing left behind."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import hypothesis
import jaxtyping
import numpy as np
import pyro
import pytest
import torch
from commands import Command, command

ROOT = Path(__file__).resolve().parents[1]
DATA_MARK = "gmn/train_small.npz"
SEED = 2026

hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("fresh", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def is_local(host: Any) -> bool:
    """Whether a host name or address stays on this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    return name in (None, "", "localhost", "::1", "::", "0.0.0.0") or str(name).startswith("127.")


def on_this_machine(call: Callable[..., Any], host_of: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, refused where ``host_of(*arguments)`` is another machine."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not is_local(host := host_of(*args, **kwargs)):
            raise RuntimeError(f"a test reached for the network: {call.__name__} to {host!r}")
        return call(*args, **kwargs)

    return guarded


def address_host(_: socket.socket, *args: Any) -> Any:
    """The host of a socket call's last argument; None for the path of a UNIX socket."""
    return args[-1][0] if isinstance(args[-1], tuple) else None


def pytest_configure() -> None:
    """One thread for torch; sockets that reach this machine only."""
    torch.set_num_threads(1)
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, on_this_machine(getattr(socket.socket, name), address_host))
    socket.getaddrinfo = on_this_machine(socket.getaddrinfo, lambda host, *_, **__: host)


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Fixed seeds before each test; dtype, gradients, threads and Pyro's settings as they were after it."""
    dtype, gradients, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    validation = pyro.settings.get()
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(gradients)
    torch.set_num_threads(threads)
    pyro.settings.set(**validation)


@pytest.fixture
def as_a_user() -> Iterator[None]:
    """No shape checks, as outside the tests: what refuses a wrong argument is fsgen's own message."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def fsgen_(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; gives its exit status, output and error output."""
    return command(capsys)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data: FSGEN_DATA, else ``data`` in the checkout, else ``shared/data`` beside it."""
    named = os.environ.get("FSGEN_DATA")
    candidates = [Path(named).expanduser()] if named else [ROOT / "data", ROOT.parent / "shared" / "data"]
    for candidate in candidates:
        if (candidate / DATA_MARK).is_file():
            return candidate
    looked = " or ".join(map(str, candidates))
    pytest.skip(f"no {DATA_MARK} in {looked}: set FSGEN_DATA to the folder that holds the real data")

"""Processes that start at once: forked from one that has imported torch.

A kernel takes five seconds of a processor to start and to import torch, and graders start one for
each answer. Here they are forked, each with an empty namespace; so are the tests of a mutant.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from jupyter_client.provisioning import local_provisioner

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tools.forks_imports"])


@contextmanager
def kernels() -> Iterator[None]:
    """Fork the kernels that are started within; they see the caller's environment as always."""
    with patch.object(local_provisioner, "launch_kernel", _Kernel):
        yield


class _Kernel:
    """What jupyter_client uses of `subprocess.Popen`, for a kernel that is forked."""

    stdin = stdout = stderr = None

    def __init__(self, cmd: list[str], env: dict[str, str], cwd: str | None = None, **_: Any):
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        # daemon: ended with this process, whatever happens
        self._process = FORKS.Process(target=_run_kernel, args=(arguments, env, cwd), daemon=True)
        self._process.start()
        self.pid = self._process.ident or 0
        while os.getpgid(self.pid) != self.pid:  # jupyter_client interrupts the whole group
            time.sleep(0.001)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run_kernel(arguments: list[str], env: dict[str, str], cwd: str | None) -> None:
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    if cwd:
        os.chdir(cwd)
    # A kernel with a parent prints no banner, and ends when the parent has ended.
    IPKernelApp.launch_instance(argv=arguments, parent_handle=os.getppid())

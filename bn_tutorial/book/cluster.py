"""Start a program several times on this machine, as the workers of a cluster.

From a terminal, ``python -m bn_tutorial.book.cluster 2 python program.py`` starts two.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["Cluster", "run"]

_STEP = 0.05  # seconds between two looks at the processes


class Cluster:
    """Processes that run the same command, each told by ``TF_CONFIG`` which worker it is.

    `tf.distribute.MultiWorkerMirroredStrategy` finds the others by that. On several machines, set
    it on each to its index and the addresses of all, and start the command once on each.

    They run on processors: GPUs are hidden from them, as two cannot share one, unless
    ``CUDA_VISIBLE_DEVICES`` is set. The ports are free ones, held by this process as long as the
    cluster lives, so that only who shares ports on purpose could get them. At the end of a ``with``
    block the processes that still run are killed.

    Parameters
    ----------
    command
        The program to run, and its arguments.
    workers
        How many processes.

    Raises
    ------
    ValueError
        If ``workers`` is below 1.

    Examples
    --------
    >>> import sys
    >>> from bn_tutorial.book.cluster import Cluster
    >>> program = "import json, os; print(json.loads(os.environ['TF_CONFIG'])['task']['index'])"
    >>> with Cluster([sys.executable, "-c", program], workers=2) as cluster:
    ...     cluster.wait(timeout=60)
    ...     cluster.outputs()
    [0, 0]
    ['0\\n', '1\\n']
    """

    def __init__(self, command: Sequence[str], workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers must be 1 or more, got {workers!r}")
        self._folder = tempfile.TemporaryDirectory()
        self._ports = [_held_port() for _ in range(workers)]
        addresses = [f"127.0.0.1:{port.getsockname()[1]}" for port in self._ports]
        #: The processes, in the order of their indices.
        self.processes = [self._start(command, addresses, index) for index in range(workers)]

    def _start(
        self, command: Sequence[str], addresses: list[str], index: int
    ) -> subprocess.Popen[bytes]:
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
            **os.environ,
            "TF_CONFIG": json.dumps(config),
            "TF_GRPC_REUSE_PORT": "1",  # or the worker could not use the port that is held
        }
        with (
            open(self._file(index, "out"), "wb") as out,
            open(self._file(index, "err"), "wb") as err,
        ):
            return subprocess.Popen(command, env=environment, stdout=out, stderr=err)

    def _file(self, index: int, kind: str) -> Path:
        return Path(self._folder.name) / f"{index}.{kind}"

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for port in self._ports:
            port.close()
        self._folder.cleanup()

    def wait(self, timeout: float) -> list[int]:
        """Wait until all processes have ended, and return their exit codes.

        A code below 0 says by which signal one was killed.

        Raises
        ------
        TimeoutError
            If some have not ended after ``timeout`` seconds. They go on.
        """
        end = time.monotonic() + timeout
        while (codes := [process.poll() for process in self.processes]).count(None):
            if time.monotonic() > end:
                running = [index for index, code in enumerate(codes) if code is None]
                raise TimeoutError(f"workers {running} have not ended after {timeout:g} seconds")
            time.sleep(_STEP)
        return [code for code in codes if code is not None]

    def outputs(self) -> list[str]:
        """Return what each process has printed so far."""
        return self._texts("out")

    def errors(self) -> list[str]:
        """Return what each process has written to standard error so far."""
        return self._texts("err")

    def _texts(self, kind: str) -> list[str]:
        # A process may have written only half of a character yet.
        files = (self._file(index, kind) for index in range(len(self.processes)))
        return [file.read_text("utf-8", errors="replace") for file in files]


def _last_words(errors: str) -> str:
    """Return what follows the frames of the last traceback."""
    _, start, text = errors.rpartition("Traceback (most recent call last):\n")
    lines = text.splitlines()
    frames = itertools.takewhile(lambda line: line.startswith(" "), lines)
    return "\n".join(lines[len(list(frames)) :]).strip() if start else "without a traceback"


def _held_port() -> socket.socket:
    """Return a socket at a free port, which others may use only if they say that they share it."""
    port = socket.socket()
    shared = getattr(socket, "SO_REUSEPORT", socket.SO_REUSEADDR)  # so it is called on Windows
    port.setsockopt(socket.SOL_SOCKET, shared, 1)
    port.bind(("127.0.0.1", 0))
    return port


def run(command: Sequence[str], workers: int, patience: float = 90) -> int:
    """Run a program as a cluster, pass on what the first worker prints, and return how many failed.

    Of those that failed, print why: what follows the last traceback. When one has ended, the others
    have ``patience`` seconds to do so.

    Examples
    --------
    >>> import sys
    >>> from bn_tutorial.book.cluster import run
    >>> run([sys.executable, "-c", "print(1 / 1)"], workers=1)  # doctest: +ELLIPSIS
    worker 0 is process ...
    1.0
    0
    """
    with Cluster(command, workers) as cluster:
        for index, process in enumerate(cluster.processes):
            print(f"worker {index} is process {process.pid}", flush=True)
        shown, end = 0, math.inf
        while time.monotonic() < end:
            codes = [process.poll() for process in cluster.processes]
            text = cluster.outputs()[0]
            print(text[shown:], end="", flush=True)
            shown = len(text)
            if None not in codes:
                break
            if end == math.inf and codes.count(None) < workers:
                end = time.monotonic() + patience
            time.sleep(_STEP)
        for index, (code, text) in enumerate(zip(codes, cluster.errors(), strict=True)):
            if code is None:
                print(f"worker {index} had not ended {patience:g} seconds after the first")
            elif code:
                print(f"worker {index} failed, code {code}: {_last_words(text)}")
        return sum(code != 0 for code in codes)


def _main() -> int:
    """Start the workers of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bn_tutorial.book.cluster")
    parser.add_argument("workers", type=int, help="how many processes")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what each runs")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"there must be 1 worker or more, got {arguments.workers}")
    if not arguments.command:
        parser.error("the command that each worker runs is missing")
    return min(run(arguments.command, arguments.workers), 1)


if __name__ == "__main__":
    raise SystemExit(_main())

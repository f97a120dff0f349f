"""Whether the other processes of a training are still there, where no closed connection says so.

A process that dies closes its connections, and the others know at once. A machine without power or network closes
nothing, nor does a process that is stopped: whoever exchanges something with it waits, for half an hour in gloo, ten
minutes in NCCL. Shorter limits of exchanges would end trainings with a rank that is only slow, as in its first step.
"""

import os
import socket
import sys
import threading
from typing import NoReturn

import torch.distributed as dist

from configs import cli

BEAT_S = 3.0
SILENT_BEATS = 15  # without a sign of a process, after which it counts as gone


class Heartbeat:
    """Two threads. One counts up a number in the store through which the processes have found each other, and reads
    those of the others; the other one sees whether they grow, and ends the process where one does not. They are two
    because a store whose machine is gone answers never, whatever its time limit.

    Silence is counted in looks, not in seconds: after a suspension of all processes (a batch system's, a laptop's) none
    counts as gone.
    """

    def __init__(self, rank: int, world: int) -> None:
        """The process group is there."""
        self._rank, self._world = rank, world
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # what an earlier one left does not count
        self._store = dist.PrefixStore(f"heartbeat/{attempt}", store)  # type: ignore[attr-defined]
        self._seen = [b""] * world  # "beats machine" of each process; replaced as a whole
        self._stopped = threading.Event()
        for work in (self._beat, self._watch):
            threading.Thread(target=work, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """All processes have done their work: from now on one may leave before the others do."""
        self._stopped.set()

    def _beat(self) -> None:
        beats, machine = 0, socket.gethostname()
        names = [str(rank) for rank in range(self._world)]
        try:
            while not self._stopped.is_set():
                beats += 1
                self._store.set(names[self._rank], f"{beats} {machine}")
                self._seen = self._store.multi_get(names)
                self._stopped.wait(BEAT_S)
        except dist.DistError as err:
            if not self._stopped.wait(BEAT_S):  # else the store's process was only the first to leave
                reason = str(err).partition("\n")[0]
                _end(f"the launcher of this training, or its process 0, cannot be reached ({reason})")

    def _watch(self) -> None:
        silent, before = [0] * self._world, self._seen
        while not self._stopped.wait(BEAT_S):
            now = self._seen
            silent = [n + 1 if a == b else 0 for n, a, b in zip(silent, before, now, strict=True)]
            before = now
            gone = [r for r, beats in enumerate(silent) if beats >= SILENT_BEATS and r != self._rank]
            if gone:
                _end(self._gone(gone))

    def _gone(self, ranks: list[int]) -> str:
        machines = [self._seen[rank].decode().partition(" ")[2] or "a machine unknown" for rank in ranks]
        named = ", ".join(f"process {rank} on {machine}" for rank, machine in zip(ranks, machines, strict=True))
        what = "is gone or stopped, or the network between"
        if len(ranks) == self._world - 1 > 1:  # they cannot be told apart where the store is what does not answer
            what = "of process 0 is gone, or the network of this one"
            return f"no other process has given a sign for {BEAT_S * SILENT_BEATS:g} s: the machine {what}"
        return f"{named} has given no sign for {BEAT_S * SILENT_BEATS:g} s: it {what}"


def _end(text: str) -> NoReturn:
    """The process: its main thread waits in an exchange, where no exception reaches it."""
    print(f"train-asr: error: {text}; the same command with --resume goes on from the last checkpoint",
          file=sys.stderr, flush=True)  # fmt: skip
    cli.leave(1)

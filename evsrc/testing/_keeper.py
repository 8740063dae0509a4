"""Keep one PostgreSQL server: start it, stop it when told or when nobody is left.

`servers` runs this file as a process of its own; whoever wants the server holds the
other end of its standard input. One byte there is an order; the end of it, however the
holder died, stops the server and deletes its folder. The first line of the standard
output is the server's pid, its standard error is the server's log, and the process ends
when nothing of the server is left.

    python _keeper.py FOLDER UID GID POSTGRES [ARGUMENT...]

It imports nothing of the package: it starts in milliseconds.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

KILL = b"k"
# a server whose files are deleted next has nothing to write down
SIGNALS = {b"f": signal.SIGINT, b"i": signal.SIGQUIT, b"": signal.SIGQUIT}
PATIENCE = 20.0


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if listed.exists():
        return [int(child) for child in listed.read_text().split()]
    found = subprocess.run(  # noqa: S603 - a number and constants
        ["pgrep", "-P", str(pid)],  # noqa: S607 - where there is no /proc
        capture_output=True,
        check=False,
    )
    return [int(child) for child in found.stdout.split()]


def _kill(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is not None:
        return
    # every backend leads a session of its own, so there is no group to kill; a stopped
    # postmaster starts no further one while they are listed
    server.send_signal(signal.SIGSTOP)
    for child in _children(server.pid):
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    server.kill()


class Identity(TypedDict, total=False):
    """What makes `Popen` change the account."""

    user: int
    group: int
    extra_groups: list[int]


def identity(uid: int, gid: int) -> Identity:
    """Give the arguments of `Popen` that run a program as this account."""
    if uid == os.getuid():
        return {}
    return {"user": uid, "group": gid, "extra_groups": []}


def keep(folder: Path, uid: int, gid: int, command: list[str]) -> None:
    """Run *command* until it ends, obeying the orders on standard input."""
    # all processes of the server hold one end: at its end of file all are gone
    gone, held = os.pipe()
    server = subprocess.Popen(  # noqa: S603 - the program that servers found
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        cwd=folder,
        pass_fds=[held],
        **identity(uid, gid),
    )
    os.close(held)
    print(server.pid, flush=True)  # noqa: T201 - the protocol
    sources, patience = [gone, 0], None
    while gone not in (ready := select.select(sources, [], [], patience)[0]):
        order = os.read(0, 1) if ready else KILL
        if order == KILL:
            _kill(server)
        else:
            server.send_signal(SIGNALS[order])
        if not order:
            sources = [gone]
        patience = PATIENCE
    server.wait()
    if sources == [gone]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    # a session that is told to end tells its server by the end of the pipe
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    keep(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])

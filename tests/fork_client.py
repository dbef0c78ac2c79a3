"""Stands for `python` on a command line: has a fork of the server run the program, and ends as it ends.

    python -IS fork_client.py SOCKET ...     is `python ...`

Signals go to the program, and a kill of this process takes the program with it. It imports so little that it
starts in 30 ms. See fork_server.py.
"""

import marshal
import os
import resource
import signal
import socket
import sys

path, *arguments = sys.argv[1:]
program = arguments[1:] if arguments[:1] == ["-u"] else arguments
if not program or (program[0].startswith("-") and program[0] != "-m"):  # such as python -c
    os.execv(sys.executable, [sys.executable, *arguments])
server = socket.socket(socket.AF_UNIX)
server.connect(path)
socket.send_fds(server, [b"+"], [0, 1, 2])
stream = server.makefile("rwb")
request = {
    "program": program,
    "folder": os.getcwd(),  # noqa: PTH109  pathlib takes as long to import as all the rest
    "environment": dict(os.environ),
    "cores": list(os.sched_getaffinity(0)),
    "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
}
marshal.dump(request, stream)
stream.flush()

pid = marshal.load(stream)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
status = marshal.load(stream)
if os.WIFSIGNALED(status):
    if os.WTERMSIG(status) != signal.SIGKILL:
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
    os.kill(os.getpid(), os.WTERMSIG(status))
sys.exit(os.WEXITSTATUS(status))

"""Runs Python programs in forks of a process that has imported the third-party libraries already.

    python -P fork_server.py FOLDER PACKAGES

A stage imports torch, diffusers and others for up to 8 seconds, and the tests start some hundred stages.
When the first client asks for a program, the server imports DVC and what the project's PACKAGES import of
other projects. A fork then runs the program as `python` would: with the arguments, folder, environment,
standard streams, cores and limit of file sizes of its client (fork_client.py), and with the project's code in
the client's folder.

FOLDER holds the clients and gets the socket. The server ends when its standard input ends.
"""

import ast
import atexit
import gc
import importlib
import marshal
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing import process
from pathlib import Path
from types import ModuleType
from typing import Any


def preload(packages: list[Path]) -> None:
    """Import what the modules of packages import, but for these packages themselves."""
    own = {package.name for package in packages}
    for file in (file for package in packages for file in package.rglob("*.py")):
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                source = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                if str(source).split(".")[0] not in own:
                    exec(ast.unparse(node), {})
    import dvc
    import dvclive  # noqa: F401  these are imported when they are needed
    import networkx  # noqa: F401
    import timm  # noqa: F401

    for module in pkgutil.walk_packages(dvc.__path__, "dvc.", onerror=lambda name: None):
        with suppress(ImportError):  # of a library that only other users of DVC need
            importlib.import_module(module.name)
    sys.path.append(str(packages[0].parent))  # for programs whose folder has no packages of the project
    gc.freeze()  # the collector leaves alone what forks share until they write to it


def serve(folder: Path, packages: list[Path]) -> dict[str, Any]:
    """Fork for each client; returns in a fork alone, with the client's request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system clears away forks that ended
    select.select([listener, sys.stdin], [], [])
    preload(packages)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return supervise(client)
        client.close()
    os._exit(0)


def supervise(client: socket.socket) -> dict[str, Any]:
    """Fork once more for the client's program, whose exit status the client is told.

    Returns in the fork alone. A client that is gone, for somebody killed it, takes the program with it.
    """
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile("rb") as stream:
        request = marshal.load(stream)
    program = os.fork()
    if program == 0:
        client.close()
        return request | {"streams": streams}
    for stream in streams:
        os.close(stream)
    client.sendall(marshal.dumps(program))
    end = os.pidfd_open(program)
    if end not in select.select([client, end], [], [])[0]:
        os.kill(program, signal.SIGKILL)
    _, status = os.waitpid(program, 0)
    with suppress(BrokenPipeError):
        client.sendall(marshal.dumps(status))
    os._exit(0)


def become(request: dict[str, Any], python: str) -> None:
    """Take over what the client's process has: its folder, environment, standard streams, cores and limits.

    Args:
        request: What the client has and sent.
        python: Path of the client, which stands for the interpreter.
    """
    os.setsid()
    for number, stream in enumerate(request["streams"]):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    os.chdir(request["folder"])
    process.ORIGINAL_DIR = request["folder"]  # where multiprocessing looks for a script
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.executable = python  # launchers start their processes with it
    os.sched_setaffinity(0, request["cores"])
    resource.setrlimit(resource.RLIMIT_FSIZE, request["file_size"])


def run(program: list[str]) -> int:
    """Run a module (-m name ...) or a script (file ...) as the main program; returns its exit code."""
    sys.orig_argv = ["python", *program]
    # multiprocessing looks for the main module under two names.
    main = sys.modules["__main__"] = sys.modules["__mp_main__"] = ModuleType("__main__")
    try:
        if program[0] == "-m":
            sys.argv = program[1:]
            sys.path.insert(0, str(Path.cwd()))
            runpy._run_module_as_main(program[1])  # all that `python -m` does
        else:
            sys.argv = program
            sys.path.insert(0, str(Path(program[0]).resolve().parent))
            main.__file__ = program[0]
            exec(compile(Path(program[0]).read_bytes(), program[0], "exec"), main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    folder, *packages = map(Path, sys.argv[1:])
    request = serve(folder, packages)
    become(request, str(folder / "python"))
    code = run(request["program"])
    # What an interpreter does at its end, without freeing a gigabyte of libraries, which takes a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

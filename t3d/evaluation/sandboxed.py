"""What runs inside the sandbox: a process that forks a child per program, which answers calls of its function.

Nothing a child says is trusted: a program may rewrite everything here, in its copy. It sees arguments and never what is
expected, so all it can gain is to return the right values. Standard library only, since `zygote.py` starts it on a bare
interpreter.
"""

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

# Modules that programs import: they find them loaded.
_COMMON = (
    *("bisect", "cmath", "collections", "copy", "datetime", "functools", "heapq", "itertools"),
    *("math", "operator", "random", "re", "string"),
)
_SOCKET = 3
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2


def encode(value: Any) -> Any:
    """Plain data as JSON: a list, tuple, set, dict or complex number says which it is.

    A `Counter` or a named tuple is the dict or tuple it derives from, to which it is equal.

    Raises:
        TypeError: `value` holds something else.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if type(value) is complex:
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(content: Any) -> Any:
    """The inverse of `encode`."""
    if not isinstance(content, dict):
        return content
    ((name, items),) = content.items()
    if name == "dict":
        return {decode(key): decode(item) for key, item in items}
    if name == "complex":
        return complex(*items)
    makers = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return makers[name](decode(item) for item in items)


def _reply(message: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
    try:
        if "program" in message:
            exec(compile(message["program"], "<answer>", "exec"), namespace)
            return {"value": None}
        if "expression" in message:
            return {"value": encode(eval(compile(message["expression"], "<test>", "eval"), namespace))}
        return {"value": encode(namespace[message["function"]](*decode(message["arguments"])))}
    except BaseException as error:  # SystemExit and KeyboardInterrupt as well: a program that exits has no result
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def _fork_children(system_calls: bytes) -> None:
    """Fork a child whenever standard input passes a socket for it, and kill it when told; return in each child.

    Whatever a program does to the files changes this folder, the only one it can write to, and a time of change cannot
    be set. In that case the sandbox is not used again.
    """
    control, libc = socket.socket(fileno=0), ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(system_calls)
    program_filter = struct.pack("HP", len(system_calls) // 8, ctypes.addressof(instructions))
    untouched = os.stat(".").st_ctime_ns
    # What a child need not look at need not be copied for it.
    gc.freeze()
    while True:
        message, files, _, _ = socket.recv_fds(control, 4096, 1)
        if not message:
            sys.exit()
        limits = [(getattr(resource, name), value) for name, value in json.loads(message).items()]
        child = os.fork()
        if not child:
            control.detach()
            return _confine(limits, files[0], libc, program_filter)
        os.close(files[0])
        told = control.recv(16)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if told:
            control.send(b"untouched" if os.stat(".").st_ctime_ns == untouched else b"touched")


def _confine(limits: list[tuple[int, int]], channel: int, libc: ctypes.CDLL, program_filter: bytes) -> None:
    """Give up everything but the socket of the program, and say on it that this is done."""
    for limit, value in limits:
        resource.setrlimit(limit, (value, value))
    for request in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program_filter)):
        if libc.prctl(*request, 0, 0):
            raise OSError(ctypes.get_errno(), "no seccomp filter can be set")
    os.dup2(channel, _SOCKET)
    os.set_inheritable(_SOCKET, False)
    nowhere = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.closerange(_SOCKET + 1, 65536)
    os.write(_SOCKET, b"+")


def main() -> None:
    """In each child, answer one message per line of its socket, until it is killed."""
    for name in _COMMON:
        __import__(name)
    # The compiler makes its types when it is first used.
    compile("0", "<nothing>", "eval")
    _fork_children(bytes.fromhex(sys.argv[1]))
    requests, answers = os.fdopen(_SOCKET), os.fdopen(os.dup(_SOCKET), "w")
    namespace: dict[str, Any] = {"__name__": "answer"}
    for line in requests:
        print(json.dumps(_reply(json.loads(line), namespace)), file=answers, flush=True)


if __name__ == "__main__":
    main()

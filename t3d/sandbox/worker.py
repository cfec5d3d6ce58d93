"""What runs inside the sandbox: a process that forks a child per program, which answers calls of its function.

Nothing a child says is trusted: a program may rewrite everything here, in its copy. It sees arguments and never what is
expected, so all it can gain is to return the right values. Standard library only, since `zygote.py` starts it on a bare
interpreter.
"""

import ctypes
import gc
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

# Modules that programs import: they find them loaded.
_COMMON = (
    *("bisect", "cmath", "collections", "copy", "datetime", "functools", "heapq", "itertools"),
    *("math", "operator", "random", "re", "string"),
)
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    function.__name__: function
    for function in (
        *(bool, int, float, str, list, tuple, set, frozenset, dict),
        *(sorted, len, sum, min, max, any, all, abs, round),
    )
}
"""Builtins that a test may call with what the program returns, which need not be plain data then."""

# Larger results would keep the trusted side busy: with the digits of a number, the size of a range, the exponent of a
# Decimal, the items of a set or dict that have one hash.
_LONGEST_INT, _LONGEST_RANGE, _LARGEST_EXPONENT, _MOST_COLLISIONS = 100_000, 10**6, 5000, 100
# `json` writes and reads decimal numbers of up to 4300 digits; hexadecimal ones have no limit and cost linear time.
_DECIMAL_BITS = 8192
_KEYS: Any = type({}.keys())
_ITEMS: Any = type({}.items())
_SOCKET = 3
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2


def encode(value: Any) -> Any:
    """Plain data as JSON: what JSON lacks, such as a tuple, a set or a Fraction, says which it is.

    What derives from a type of plain data is a value of that type: a `Counter` is a dict, an `IntEnum` an int. The two
    are equal, unless the derived class says otherwise.

    Raises:
        TypeError: `value` is or holds something else.
    """
    if value is None or isinstance(value, bool):
        return value
    # The methods of the plain types: a derived class may have others.
    if isinstance(value, int):
        number = int.__int__(value)
        return number if number.bit_length() <= _DECIMAL_BITS else {"int": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    for kind in (list, tuple, set, frozenset, deque):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, _KEYS):
        return {"keys": [[encode(key), None] for key in value]}
    if isinstance(value, _ITEMS):
        return {"items": [[encode(key), encode(item)] for key, item in value]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [encode(bound) for bound in (value.start, value.stop, value.step)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": memoryview(value).hex()}
    if isinstance(value, Fraction):
        return {"Fraction": [encode(value.numerator), encode(value.denominator)]}
    if isinstance(value, Decimal):
        return {"Decimal": Decimal.__str__(value)}
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(content: Any) -> Any:
    """The inverse of `encode`.

    Raises:
        ValueError: an honest program has no such value; other errors, too, if `content` is not what `encode` gives.
    """
    if not isinstance(content, dict):
        return content
    ((name, items),) = content.items()
    return _DECODERS[name](items)


def _int(digits: str) -> int:
    if len(digits) > _LONGEST_INT:
        raise ValueError(f"a number of {len(digits)} hexadecimal digits")
    return int(digits, 16)


def _range(bounds: list[Any]) -> range:
    value = range(*map(decode, bounds))
    if len(value) > _LONGEST_RANGE:
        raise ValueError(f"a range of {len(value)} numbers")
    return value


def _decimal(text: str) -> Decimal:
    value = Decimal(str(text))
    if value.is_finite() and abs(value.adjusted()) > _LARGEST_EXPONENT:
        raise ValueError(f"the exponent of {text[:20]}")
    return value


def _hashed(items: Iterable[Any]) -> list[Any]:
    """Decoded items of a set or dict, unless its hash table would take quadratic time."""
    found = [decode(item) for item in items]
    hashes = sorted(map(hash, found))
    if any(a == b for a, b in zip(hashes, hashes[_MOST_COLLISIONS:], strict=False)):
        raise ValueError("items with one hash")
    return found


def _dict(items: list[list[Any]]) -> dict[Any, Any]:
    return dict(zip(_hashed(key for key, _ in items), (decode(item) for _, item in items), strict=True))


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": _int,
    "list": lambda items: [decode(item) for item in items],
    "tuple": lambda items: tuple(decode(item) for item in items),
    "deque": lambda items: deque(decode(item) for item in items),
    "set": lambda items: set(_hashed(items)),
    "frozenset": lambda items: frozenset(_hashed(items)),
    "dict": _dict,
    "keys": lambda items: _dict(items).keys(),
    "items": lambda items: _dict(items).items(),
    "complex": lambda parts: complex(*parts),
    "range": _range,
    "bytes": bytes.fromhex,
    "Fraction": lambda parts: Fraction(*map(decode, parts)),
    "Decimal": _decimal,
}


def _reply(message: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
    try:
        if "program" in message:
            exec(compile(message["program"], "<answer>", "exec"), namespace)
            return {"value": None}
        if "expression" in message:
            value = eval(compile(message["expression"], "<test>", "eval"), namespace)
        else:
            value = namespace[message["function"]](*decode(message["arguments"]))
        for name in message["wrappers"]:
            value = WRAPPERS[name](value)
        return {"value": encode(value)}
    except BaseException as error:  # SystemExit and KeyboardInterrupt as well: a program that exits has no result
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def _fork_children(system_calls: bytes) -> None:
    """Fork a child whenever standard input passes a socket for it, and kill it when told; return in each child.

    Whatever a program does to the files changes this folder, the only one it can write to, and a time of change cannot
    be set; reading the folder changes its time of access. In both cases the sandbox is not used again.
    """
    control, libc = socket.socket(fileno=0), ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(system_calls)
    program_filter = struct.pack("HP", len(system_calls) // 8, ctypes.addressof(instructions))
    untouched = _times(".")
    # What a child need not look at need not be copied for it.
    gc.freeze()
    while True:
        message, files, _, _ = socket.recv_fds(control, 4096, 1)
        if not message:
            sys.exit()
        cpu_seconds, resources = json.loads(message)
        limits = [(getattr(resource, name), value) for name, value in resources.items()]
        child = os.fork()
        if not child:
            control.detach()
            return _confine(limits, files[0], libc, program_filter)
        os.close(files[0])
        _wait_or_kill(control, child, cpu_seconds, libc)
        told = control.recv(16)
        os.kill(child, signal.SIGKILL)
        _, _, used = os.wait4(child, 0)
        if told:
            is_untouched = _times(".") == untouched
            control.send(json.dumps([is_untouched, used.ru_utime + used.ru_stime]).encode())


def _times(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_ctime_ns, status.st_atime_ns


def _wait_or_kill(control: socket.socket, child: int, cpu_seconds: float, libc: ctypes.CDLL) -> None:
    """Wait for a message, and meanwhile kill the child when its time is over."""
    clock = ctypes.c_int()
    libc.clock_getcpuclockid(child, ctypes.byref(clock))
    left = cpu_seconds
    while not select.select([control], [], [], left)[0]:
        # A process without threads cannot use more in this time, so there is no need to look more often.
        left = cpu_seconds - time.clock_gettime(clock.value)
        if left <= 0:
            os.kill(child, signal.SIGKILL)
            return
        left = max(left, 0.01)


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
    # Dataclasses, pickle and `get_type_hints` look a class's module up by its name.
    module = sys.modules["answer"] = ModuleType("answer")
    # A fork draws a new seed; the verdict must be the same every time.
    random.seed(0)
    for line in requests:
        print(json.dumps(_reply(json.loads(line), vars(module))), file=answers, flush=True)


if __name__ == "__main__":
    main()

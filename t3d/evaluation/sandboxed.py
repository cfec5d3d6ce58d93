"""What runs inside the sandbox: it turns a program into a function and answers calls of it.

Nothing it says is trusted: a program may rewrite everything here. It sees arguments and never what is expected, so all
it can gain is to return the right values. Standard library only, since `sandbox.py` starts it on a bare interpreter.
"""

import json
import os
import resource
import sys
from typing import Any


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


def main() -> None:
    """Answer one message per line of standard input, until it ends."""
    limits = json.loads(sys.argv[1])
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    print(json.dumps({"value": "ready"}), file=answers, flush=True)
    namespace: dict[str, Any] = {"__name__": "answer"}
    for line in requests:
        print(json.dumps(_reply(json.loads(line), namespace)), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""A program for tests: softmax of rows, which fails in the way that the first logit says. Its arguments are how it
describes itself, and a factor of its results.
"""

import array
import json
import math
import os
import signal
import struct
import sys
import time
from typing import Any

FACTOR = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
source, sink = sys.stdin.buffer, sys.stdout.buffer


def write(header: dict[str, object], body: bytes = b"", after: bytes = b"") -> None:
    text = json.dumps(header).encode()
    sink.write(struct.pack("<4sIQ", b"DFZ1", len(text), len(body)) + text + body + after)
    sink.flush()


def softmax(row: list[float]) -> list[float]:
    largest = max(row)
    e = [math.exp(x - largest) for x in row]
    return [FACTOR * x / sum(e) for x in e]


def answer(request: dict[str, Any], body: bytes) -> None:
    if request["operation"] == "copy":
        return write({"message": "result"}, body[: request["inputs"][0]["bytes"]])
    (z,) = request["inputs"]
    assert (z["name"], z["dtype"], z["offset"]) == ("z", "float32", 0)
    n = z["shape"][-1]
    numbers = array.array("f", body[: z["bytes"]]).tolist()
    rows = [numbers[i : i + n] for i in range(0, len(numbers), n)]
    result = array.array("f", [p for row in rows for p in softmax(row)]).tobytes()
    for first in {row[0] for row in rows}:
        if first == 91:
            print("no heart", file=sys.stderr)
            sys.exit(3)
        if first == 92:
            os.kill(os.getpid(), signal.SIGSEGV)
        if first == 93:
            print("debugging", flush=True)
        if first == 94:
            return write({"message": "error", "text": "no \x1b 94"})
        if first == 95:
            return write({"message": "skip", "text": "no 95"})
        if first == 96:
            time.sleep(60)
        if first == 97:
            result = result[4:]
        if first == 98:
            return write({"message": "result"}, result, b"bye")
        if first == 99:
            return write({"message": "what"})
        if first == 100:
            os.close(1)
            time.sleep(60)
        if first == 101:
            return sink.write(b"DFZ1" + bytes([255] * 12)), sink.flush()
        if first == 102:
            return sink.write(struct.pack("<4sIQ", b"DFZ1", 3, 0) + b"{]}"), sink.flush()
    return write({"message": "result"}, result)


while prefix := source.read(16):
    _, of_header, of_body = struct.unpack("<4sIQ", prefix)
    request = json.loads(source.read(of_header))
    body = source.read(of_body)
    if request["message"] == "describe":
        assert request["protocol"] == 1
        write(json.loads(sys.argv[1]))
    else:
        answer(request, body)

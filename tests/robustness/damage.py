"""Ways to damage a file from outside."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

NASTY = (
    *(b"null", b"true", b"-1", b"0", b"NaN", b"1e999", b"[]", b"{}", b'""', b"[[[[[", b"}}", b'"'),
    *(b"9" * 400, b"[" * 5000, b'"\\ud800"', b"\x00", b"\xff\xfe", b"\n", b",", b":", b"../../x"),
    *(b"__import__('os')", b"!!python/object", b"pipe:", b"\xef\xbb\xbf", b"\r\n", b"\t", b"%s"),
)


def damaged(content: bytes, random: Random, mark: Path) -> bytes:
    """Return a file's content, damaged in one to four places."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        at, way = random.randrange(len(data) + 1), random.randrange(8)
        some = random.randrange(1, 40)
        if way == 0:
            data[at : at + 1] = bytes([random.randrange(256)])
        elif way == 1 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif way == 2:
            del data[at:]
        elif way == 3:
            del data[at : at + some]
        elif way == 4:
            data[at:at] = random.choice(NASTY)
        elif way == 5:
            data[at : at + some] = random.choice(NASTY)
        elif way == 6:
            source = random.randrange(len(data) + 1)
            data[at:at] = data[source : source + some]
        else:
            data[min(at, 64) :] = random.randbytes(some)
    if random.random() < 0.01:
        return pickle.dumps(Planted(mark))
    return bytes(data)


class Planted:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def changed_value(content: bytes, random: Random) -> bytes:
    """Return JSON with one value somewhere replaced by one of another kind."""
    root = json.loads(content)
    place = random.choice(list(_places(root)))
    values: list[Any] = [None, True, -1, 0, 10**30, 1e-300, "", "x", "\0"]
    values += [[], {}, [[]], [None], {"a": 1}]
    place[0][place[1]] = random.choice(values)
    return json.dumps(root).encode()


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])

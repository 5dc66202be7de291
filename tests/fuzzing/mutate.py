"""Inputs out of good ones: cut, doubled, swapped, spliced with other good ones, sprinkled with what parsers stumble over."""

import random
from typing import Final

NASTY: Final = (
    b"\x00",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\\ud800",
    b"\\u0000",
    b'"',
    b"\\",
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-0",
    b"1E400",
    b"-1e-999",
    b"9" * 40,
    b"0x1",
    b"NaN",
    b"{}",
    b"[]",
    b'{"":0}',
    b'"id":1,',
    b'"id":null,',
    b'"method":"x",',
    b'"jsonrpc":"2.0",',
    b'"params":{},',
    b'"result":{},',
    b'"error":{},',
    b'"_meta":{},',
    b"*",
    b">",
    b".",
    b"..",
    b" ",
    b"_x",
    b"_x_",
    b"_x41_",
    b"_xFFFFFF_",
    b"$JS.API.",
    b"$SYS.",
    b"mesh.v1.",
    b"{{name()}}",
    b"{{tag(role)}}",
    b"Nats-",
    b"Mesh-",
    b"=",
    b"==",
    b"-----",
    b"eyJ",
    b"http://",
    b"https://",
    b"127.0.0.1",
    b"[::1]",
    b":0",
    b"@",
    b"%00",
    b"%2e%2e/",
    b"../",
    b"data:",
    b"event:",
    b"id:",
    b"retry:",
    b"call = [",
    b"[roles.x]",
    b"[agents.x]",
    b"#",
    b'"""',
    b"'''",
)

LONGEST: Final = 64 * 1024
DEEPEST: Final = 20_000


def mutate(good: bytes, others: tuple[bytes, ...], rng: random.Random) -> bytes:
    """One input. Most are close to `good`: nonsense that is refused at its first byte tests nothing behind it."""
    data = bytearray(good)
    for _ in range(min(1 + int(rng.expovariate(0.7)), 12)):
        at, to = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        match rng.randrange(9):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : min(to, at + rng.randint(1, 16))]
            case 2:
                data[at:at] = rng.choice(NASTY)
            case 3:
                data[at : min(to, at + 8)] = rng.choice(NASTY)
            case 4:
                data[at:at] = data[at:to][:256]
            case 5:
                other = rng.choice(others)
                start = rng.randint(0, len(other))
                data[at:to] = other[start : start + rng.randint(0, 256)]
            case 6:
                data[at:at] = rng.choice(NASTY) * rng.choice((2, 3, 50, 1000))
            case 7 if rng.random() < 0.01:
                data[at:at] = rng.choice((b"[", b'{"a":', b'{"params":', b"[[{")) * rng.randint(100, DEEPEST)
            case _:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(data[:LONGEST])

"""Whether a permission covers a subject: as the broker decides it, token by token."""


def matches(allowed: str, subject: str) -> bool:
    """Whether a client with the permission `allowed` may publish or subscribe to `subject`.

    `*` in the permission is one token, `>` one or more at its end. A wildcard in the *subject* is a token like any other: so `a.>` is
    covered by `a.*`, though it takes in more; the server does the same. No permission covers an empty token.
    Source: nats-server, sublist.go (`Match`), client.go (`canSubscribe`, `pubAllowed`); a test asks the server itself.
    """
    asked = subject.split(".")
    if not all(asked):
        return False
    said = allowed.split(".")
    if said[-1] == ">":
        said.pop()
        if len(asked) <= len(said):
            return False
    elif len(asked) != len(said):
        return False
    return all(token in ("*", found) for token, found in zip(said, asked, strict=False))

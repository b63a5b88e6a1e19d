"""A Millrace function. Deploy it with `millrace deploy`."""


def handle(arguments: bytes, call: dict) -> bytes:
    """Runs one call. `call` has its headers: the id in `lambda-runtime-aws-request-id`, the time by which it must
    have answered in `lambda-runtime-deadline-ms`.

    A process serves one call after the other, so keep no state that a later call must not see. To fail, raise: the
    text goes to the call's stderr, and the call is tried again.
    """
    name = arguments.decode() or "world"
    return f"hello, {name}".encode()

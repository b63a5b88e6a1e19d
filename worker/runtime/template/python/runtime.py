"""The AWS Lambda Runtime API, with the standard library alone. Nothing here needs to be changed."""

import http.client
import importlib
import json
import os
import sys
import traceback

BASE = "/2018-06-01/runtime"


def main() -> None:
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    try:
        module, _, name = os.environ["_HANDLER"].rpartition(".")
        handle = getattr(importlib.import_module(module), name)
    except Exception as error:
        post(api, "/init/error", *told(error))
        sys.exit(1)
    while True:
        api.request("GET", f"{BASE}/invocation/next")
        answer = api.getresponse()
        call = {name.lower(): value for name, value in answer.getheaders()}
        arguments = answer.read()
        if answer.status != 200:
            sys.exit(f"next was answered with {answer.status}: {arguments[:200]!r}")
        place = f"/invocation/{call['lambda-runtime-aws-request-id']}"
        try:
            result = handle(arguments, call)
        except Exception as error:
            post(api, f"{place}/error", *told(error))
        else:
            post(api, f"{place}/response", result, {})


def told(error: Exception) -> tuple[bytes, dict]:
    """An error as the Runtime API wants it."""
    traceback.print_exc()
    kind = type(error).__name__
    body = {"errorMessage": str(error), "errorType": kind, "stackTrace": traceback.format_tb(error.__traceback__)}
    return json.dumps(body).encode(), {"Lambda-Runtime-Function-Error-Type": kind}


def post(api: http.client.HTTPConnection, path: str, body: bytes, headers: dict) -> None:
    api.request("POST", BASE + path, body, headers)
    api.getresponse().read()


if __name__ == "__main__":
    main()

"""Does what its event says; anything else comes back as it is."""

import glob
import os
import sys
import time

# Of this process: its sandbox.
TOKEN = os.urandom(8).hex()

print("begun")


def answer(event, context):
    do = event.get("do") if isinstance(event, dict) else None
    print("seen", do)
    if do == "raise":
        raise ValueError(event["text"])
    if do == "exit":
        sys.exit(event["code"])
    if do == "sleep":
        time.sleep(event["s"])
    if do == "length":
        return len(event["text"])
    if do == "big":
        # With its quotation marks.
        return "x" * (event["bytes"] - 2)
    if do == "meet":
        # Returns when so many calls have begun in this sandbox.
        open(f"/tmp/meet-{event['n']}", "w").close()
        while len(glob.glob("/tmp/meet-*")) < event["meet"]:
            time.sleep(0.01)
    if do == "environment":
        return dict(os.environ)
    if do == "who":
        return {"n": event["n"], "token": TOKEN}
    if do == "context":
        client = context.client_context
        return {
            "id": context.aws_request_id,
            "left": context.get_remaining_time_in_millis(),
            "arn": context.invoked_function_arn,
            "name": context.function_name,
            "version": context.function_version,
            "memory": context.memory_limit_in_mb,
            "client": client and {"app": client.client.app_title, "custom": client.custom, "env": client.env},
        }
    return event

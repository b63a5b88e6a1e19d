"""What an SDK sees of a function by awslambdaric. Run by tests/tests/lambda.rs with the endpoint as argument."""

import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

client = boto3.client(
    "lambda",
    endpoint_url=sys.argv[1],
    region_name="eu-central-1",
    aws_access_key_id="any",
    aws_secret_access_key="any",
    config=Config(retries={"max_attempts": 0}, read_timeout=60, max_pool_connections=32),
)


def invoke(event, **more):
    answer = client.invoke(FunctionName="py", Payload=json.dumps(event).encode(), **more)
    return answer, json.loads(answer["Payload"].read() or b"null")


# A result, and what the function printed.
answer, result = invoke({"do": "printed", "text": "grüße"}, LogType="Tail")
assert (answer["StatusCode"], "FunctionError" in answer, result["text"]) == (200, False, "grüße"), answer
log = base64.b64decode(answer["LogResult"]).decode()
assert "seen printed\n" in log and "REPORT RequestId: " in log and "Memory Size: 128 MB" in log, log

# The caller's context arrives.
told = {"client": {"app_title": "a test"}, "custom": {"k": "v"}, "env": {"locale": "de"}}
context = base64.b64encode(json.dumps(told).encode()).decode()
answer, result = invoke({"do": "context"}, ClientContext=context)
assert result["client"] == {"app": "a test", "custom": {"k": "v"}, "env": {"locale": "de"}}, result
assert result["id"] == answer["ResponseMetadata"]["RequestId"], (answer, result)

# Failures, told as Lambda tells them.
answer, result = invoke({"do": "raise", "text": "a reason"}, LogType="Tail")
assert answer["StatusCode"] == 200 and answer["FunctionError"] == "Unhandled", answer
assert (result["errorType"], result["errorMessage"]) == ("ValueError", "a reason"), result
assert "stackTrace" in result and "a reason" in base64.b64decode(answer["LogResult"]).decode()
answer, result = invoke({"do": "exit", "code": 3})
assert answer["FunctionError"] == "Unhandled" and result["errorType"] == "Runtime.ExitError", result
assert "exit status 3: the process ended with exit status 3 before it answered" in result["errorMessage"], result
answer, result = invoke({"do": "exit", "code": 0})
assert "Error: ended: the process ended, with exit status 0, before it answered" in result["errorMessage"], result

# Accepted; the test looks for its log.
answer, _ = invoke({"do": "event"}, InvocationType="Event")
assert answer["StatusCode"] == 202, answer

# Many at once, each with its own answer, from several sandboxes.
with ThreadPoolExecutor(24) as pool:
    answers = list(pool.map(lambda n: invoke({"do": "who", "n": n}), range(400)))
for n, (answer, result) in enumerate(answers):
    assert "FunctionError" not in answer and result["n"] == n, (n, answer, result)
tokens = {result["token"] for _, result in answers}
assert 1 <= len(tokens) <= 4, tokens
print(f"400 answers of {len(tokens)} sandboxes as boto3 {boto3.__version__} expects them")

"""What an SDK sees of the Lambda Invoke path. Run by tests/tests/lambda_api.rs with the endpoint as argument."""

import base64
import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

client = boto3.client(
    "lambda",
    endpoint_url=sys.argv[1],
    region_name="eu-central-1",
    aws_access_key_id="any",
    aws_secret_access_key="any",
    config=Config(retries={"max_attempts": 0}, read_timeout=60),
)


def refused(code, status, **arguments):
    try:
        answer = client.invoke(**arguments)
    except ClientError as error:
        got = (error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"])
        assert got == (code, status), (got, error.response)
        assert error.response["Error"]["Message"], error.response
        return error
    raise AssertionError(f"not refused: {answer}")


# A result, byte for byte, under every name of the function.
payload = json.dumps({"n": 1, "text": "grüße"}, ensure_ascii=False).encode()
arn = "arn:aws:lambda:eu-central-1:123456789012:function:echo"
for name in ["echo", "default/echo", "default.echo", "echo:$LATEST", "123456789012:function:echo", arn]:
    answer = client.invoke(FunctionName=name, Payload=payload)
    assert answer["StatusCode"] == 200 and "FunctionError" not in answer, answer
    assert answer["ExecutedVersion"] == "$LATEST", answer
    assert answer["Payload"].read() == payload
    assert len(answer["ResponseMetadata"]["RequestId"]) == 32, answer
assert client.invoke(FunctionName="other/echo", Payload=b"7")["Payload"].read() == b"7"
assert client.invoke(FunctionName="echo")["Payload"].read() == b"{}"

# Versions.
assert client.invoke(FunctionName="echo", Qualifier="1", Payload=b"1")["ExecutedVersion"] == "1"
refused("ResourceNotFoundException", 404, FunctionName="echo", Qualifier="2")
refused("ResourceNotFoundException", 404, FunctionName="echo:prod")

# The log.
answer = client.invoke(FunctionName="command", Payload=b'"x"', LogType="Tail")
log = base64.b64decode(answer["LogResult"]).decode()
assert answer["Payload"].read() == b'"x"'
assert "heard" in log and "REPORT RequestId: " in log and "Memory Size: 64 MB" in log, log

# Only accepted, or not even that.
answer = client.invoke(FunctionName="echo", InvocationType="Event", Payload=b"[]")
assert answer["StatusCode"] == 202 and answer["Payload"].read() == b"", answer
assert client.invoke(FunctionName="echo", InvocationType="DryRun")["StatusCode"] == 204
refused("ResourceNotFoundException", 404, FunctionName="nope", InvocationType="DryRun")

# Functions that fail.
for name, kind in [("trap", "Runtime.Fault"), ("loop", "Sandbox.Timedout")]:
    answer = client.invoke(FunctionName=name, Payload=b"{}")
    assert answer["StatusCode"] == 200 and answer["FunctionError"] == "Unhandled", answer
    error = json.loads(answer["Payload"].read())
    assert error["errorType"] == kind and error["errorMessage"], error

# Refusals.
refused("ResourceNotFoundException", 404, FunctionName="nope")
refused("InvalidRequestContentException", 400, FunctionName="echo", Payload=b"{nope")
refused("RequestTooLargeException", 413, FunctionName="echo", Payload=b'"' + b"x" * (6 << 20) + b'"')
refused("InvalidParameterValueException", 400, FunctionName="echo", InvocationType="Sometimes")
refused("InvalidParameterValueException", 400, FunctionName="echo", ClientContext="not base64!")
context = base64.b64encode(json.dumps({"client": {"app": "test"}}).encode()).decode()
assert client.invoke(FunctionName="echo", Payload=b"1", ClientContext=context)["StatusCode"] == 200

# Not there yet, and says so.
try:
    client.invoke_with_response_stream(FunctionName="echo")
    raise AssertionError("a stream came")
except ClientError as error:
    assert error.response["Error"]["Code"] == "UnsupportedOperationException", error.response
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 501, error.response

print("every answer was as boto3", boto3.__version__, "expects it")

// Does what its event says; anything else comes back as it is.

import { readdirSync, writeFileSync } from "node:fs";

console.log("begun");

export async function answer(event, context) {
  console.log("seen", event.name);
  if (event.raise) {
    throw new RangeError(event.raise);
  }
  if (event.exit !== undefined) {
    process.exit(event.exit);
  }
  if (event.meet) {
    // Returns when so many calls have begun in this sandbox.
    writeFileSync(`/tmp/meet-${event.n}`, "");
    while (readdirSync("/tmp").filter((name) => name.startsWith("meet-")).length < event.meet) {
      await new Promise((done) => setTimeout(done, 10));
    }
  }
  if (event.context) {
    return {
      id: context.awsRequestId,
      left: context.getRemainingTimeInMillis(),
      arn: context.invokedFunctionArn,
      client: context.clientContext,
      name: context.functionName,
      memory: context.memoryLimitInMB,
    };
  }
  return event;
}

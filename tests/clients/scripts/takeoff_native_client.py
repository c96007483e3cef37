"""Takeoff's own client: a whole answer, a stream, a batch, an answer held to an expression, an error."""

import asyncio
import json
import sys

from takeoff_client import TakeoffClient, TakeoffException

client = TakeoffClient(base_url="http://127.0.0.1", port=int(sys.argv[1]))
question = "The capital of France is"
settings = {"max_new_tokens": 16}

text = client.generate(question, **settings)["text"]
streamed = "".join(event.data for event in client.generate_stream(question, **settings))
later = asyncio.run(client.generate_async(question, **settings))["text"]
batch = client.generate([question, question], return_metadata=True, **settings)
try:
    client.generate(question, consumer_group="nobody")
    error = ""
except TakeoffException as refusal:
    error = "model_not_found" if "nobody" in str(refusal) else str(refusal)

print(
    json.dumps(
        {
            "completion": text,
            "streamed": streamed,
            "async": later,
            "batch": batch["text"],
            "generated_tokens": batch["metadata"]["generated_tokens"],
            "number": client.generate("A number:", regex_string="[0-9]{3}")["text"],
            "error": error,
        }
    )
)

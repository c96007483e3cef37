"""transformers' own continuous batching, as a process that is told over standard input what to run.

Usage: transformers_alone.py MODEL [device=cuda]. Speaks as engine_alone.py does; the first token is not timed.
"""

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


def run(model: Any, tokenizer: Any, bodies: list[dict[str, Any]]) -> dict[str, float]:
    """Answer all bodies at once. It has one sampling configuration for all of them, and no seeds."""
    prompts = [
        tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=False)
        for body in bodies
    ]
    sampling = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=bodies[0]["temperature"],
        max_new_tokens=bodies[0]["max_tokens"],
        eos_token_id=-1,
        pad_token_id=0,
    )
    outputs = model.generate_batch(prompts, generation_config=sampling, record_timestamps=True).values()
    # From the first token on: what stands before it is 8 s of preparations, which it makes for each batch anew.
    began = min(output.timestamps[0] for output in outputs)
    ended = max(output.timestamps[-1] for output in outputs)
    return {"num_tokens": sum(len(output.generated_tokens) - 1 for output in outputs), "seconds": ended - began}


def main() -> None:
    """Load the model named on the command line, then serve standard input."""
    settings = dict(argument.split("=", 1) for argument in sys.argv[2:])
    device = torch.device(settings.get("device", "cuda"))
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model: Any = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
    model = model.to(device).eval()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(model, tokenizer, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

"""What holding answers to a schema costs: compiling, a mask per token, and tokens/s with all rows held.

Usage: .venv/bin/python benchmarks/bench_grammar.py [--repeats 3] [--with-xgrammar DIR]

The schemas are the tests' own (tests/json_schemas.py); each is walked along tokens drawn from its masks. Vocabularies:
the default model's, and one of 152,000 tokens that is trained here on this environment's Python sources. With
--with-xgrammar the same is done with xgrammar, installed by `pip install --no-deps --target DIR xgrammar
apache-tvm-ffi`. Writes benchmarks/results/grammar.json and grammar.png.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jsonschema
import numpy as np
from tqdm import tqdm
from transformers import AutoTokenizer

from benchmarks import machine, workload
from benchmarks.bench_serving import RESULTS, EngineAlone
from benchmarks.grammar_libraries import COMPILERS, Compile, Matcher
from benchmarks.large_tokenizer import train_tokenizer
from benchmarks.plot_grammar import plot
from benchmarks.service import default_model
from tests.json_schemas import SCHEMAS

LARGE_VOCABULARY = 152_000
MAX_TOKENS = 200
STREAMS = 32


def walk(matcher: Matcher, tokenizer: Any, seed: int) -> tuple[list[float], str | None]:
    """Follow allowed tokens: seconds of each mask, and the text if it ended by itself."""
    chance, seconds = random.Random(seed), []
    token_ids: list[int] = []
    mask = np.zeros(-(-len(tokenizer) // 32), dtype=np.int32)
    while len(token_ids) < MAX_TOKENS:
        started = perf_counter()
        matcher.fill(mask)
        seconds.append(perf_counter() - started)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little", count=len(tokenizer)))
        end = tokenizer.eos_token_id
        token_id = end if end in allowed else int(chance.choice(allowed))
        if token_id == end:
            return seconds, tokenizer.decode(token_ids)
        matcher.advance(token_id)
        token_ids.append(token_id)
        if matcher.is_ended:
            return seconds, tokenizer.decode(token_ids)
    return seconds, None


def try_schemas(compile_schema: Compile, tokenizer: Any, title: str) -> dict[str, Any]:
    """Compile and walk every schema once."""
    compiling: list[float] = []
    masks: list[float] = []
    refused, invalid, ended = [], [], 0
    compile_schema({"type": "null"})  # whatever is made once
    for number, schema in enumerate(tqdm(SCHEMAS, desc=title, unit="schema")):
        started = perf_counter()
        try:
            matcher = compile_schema(schema)
        except Exception as error:  # each library has its own
            refused.append(f"{json.dumps(schema)[:80]}: {str(error)[:80]}")
            continue
        compiling.append(perf_counter() - started)
        seconds, text = walk(matcher, tokenizer, number)
        masks += seconds
        if text is not None:
            ended += 1
            try:
                jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
            except (ValueError, jsonschema.ValidationError):
                invalid.append(json.dumps(schema)[:120])
    return {
        "schemas": len(SCHEMAS),
        "refused": refused,
        "ended": ended,
        "invalid": invalid,
        "compile ms": _percentiles(compiling, 1e3),
        "mask us": _percentiles(masks, 1e6),
        "masks": len(masks),
    }


def _percentiles(seconds: list[float], unit: float) -> dict[str, float]:
    ranks = {"p50": 50, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(seconds, rank)) * unit, 2) for name, rank in ranks.items()}


def speed(repeats: int) -> dict[str, Any]:
    """Tokens/s of the engine alone with none and with all of its rows held to a schema of their own, in turn."""
    engine = EngineAlone(str(default_model()))
    speeds: dict[str, list[float]] = {"none": [], "all": []}
    for repeat in tqdm(range(repeats + 1), desc="rounds", unit="round"):
        for name, of in speeds.items():
            bodies = [workload.request(1000 * repeat + number) for number in range(STREAMS)]
            for number, body in enumerate(bodies):
                body["ignore_eos"] = True
                if name == "all":
                    body["json_schema"] = _endless_schema(number)
            result = engine.run(bodies)
            if repeat:  # the first round warms up
                of.append(result["num_tokens"] / result["seconds"])
    engine.close()
    ratios = [all_held / none for none, all_held in zip(speeds["none"], speeds["all"], strict=True)]
    return {
        "streams": STREAMS,
        "none tokens/s": [round(s, 1) for s in speeds["none"]],
        "all tokens/s": [round(s, 1) for s in speeds["all"]],
        "ratio": round(median(ratios), 3),
    }


def _endless_schema(number: int) -> dict[str, Any]:
    """A list of records that no answer gets to the end of."""
    record = {f"name_{number}": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array"}}
    item = {"type": "object", "properties": record, "required": list(record), "additionalProperties": False}
    return {"type": "array", "items": item, "minItems": 1000}


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--with-xgrammar", metavar="DIR")
    arguments = parser.parse_args()
    names = ["llguidance"]
    if arguments.with_xgrammar:
        sys.path.append(arguments.with_xgrammar)
        names.append("xgrammar")
    result: dict[str, Any] = {"speed": speed(arguments.repeats)}
    tokenizers = [AutoTokenizer.from_pretrained(default_model()), train_tokenizer(LARGE_VOCABULARY)]
    for tokenizer in tokenizers:
        for name in names:
            started = perf_counter()
            compile_schema = COMPILERS[name](tokenizer)
            took = perf_counter() - started
            title = f"{name}, {len(tokenizer)} tokens"
            result[title] = {
                "vocabulary seconds": round(took, 2),
                **try_schemas(compile_schema, tokenizer, title),
            }
    print(json.dumps(result, indent=1))
    kept = {"command": " ".join(sys.argv), "machine": machine.describe(), **result}
    (RESULTS / "grammar.json").write_text(json.dumps(kept, indent=1) + "\n")
    plot(result, RESULTS / "grammar.png")


if __name__ == "__main__":
    main()

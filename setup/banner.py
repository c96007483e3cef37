"""Prints what runs and how to use it, once everything is ready.

Usage: banner.py REPOSITORY PROXY_ADDRESS TRITON_ADDRESS METRICS_ADDRESS NATIVE_ADDRESS [triton] [proxy]

An empty NATIVE_ADDRESS: the native API is switched off.
"""

import sys
from pathlib import Path

CURL = """\
curl --location 'http://{address}/v1/chat/completions' \\
--header 'Content-Type: application/json' \\
--data '{{
"model": "{group}",
"messages": [{{"role": "user", "content": "What is inference server?"}}],
"stream": true
}}'"""


def main(repository: Path, proxy: str, triton: str, metrics: str, native: str, *servers: str) -> None:
    """Print the models and addresses of the servers that were started."""
    groups = model_lines(repository) if "triton" in servers else {}
    print("\nSlipstream is ready")
    for group, line in groups.items():
        print(f"  {group:<10} {line}")
    if "proxy" in servers:
        print(f"  OpenAI API http://{proxy}/v1")
        if native:
            print(f"  Native API http://{native}/generate, page http://{native}")
    if "triton" in servers:
        print(f"  Triton     http://{triton}, metrics http://{metrics}/metrics")
    if "proxy" in servers:
        group = "primary" if "primary" in groups or not groups else min(groups)
        print("\n" + CURL.format(address=proxy, group=group))
    print("\nCtrl-C stops it.", flush=True)


def model_lines(repository: Path) -> dict[str, str]:
    """Model and device of each rendered group, by its name."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    lines = {}
    for path in sorted(repository.glob("*/config.pbtxt")):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        settings = {name: value.string_value for name, value in config.parameters.items()}
        lines[config.name] = f"{readable_name(settings['model_name'])} on {settings['device']}"
    return lines


def readable_name(model_name: str) -> str:
    """A hub name as it is, a folder by its own name."""
    return Path(model_name).name if model_name.startswith("/") else model_name


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

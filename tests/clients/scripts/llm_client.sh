#!/usr/bin/env bash
# simonw's llm: a whole answer, a stream, a second turn, an error. Usage: llm_client.sh BASE_URL PATH_TO_LLM
set -euo pipefail
base_url=$1 llm=$2
LLM_USER_PATH=$(mktemp -d)
export LLM_USER_PATH
trap 'rm -rf "$LLM_USER_PATH"' EXIT
for name in primary nobody; do
    printf -- '- model_id: slipstream-%s\n  model_name: %s\n  api_base: %s\n' "$name" "$name" "$base_url"
done >"$LLM_USER_PATH/extra-openai-models.yaml"

ask() { "$llm" -m slipstream-primary -s "You are a helpful assistant." -o temperature 0 -o max_tokens 16 "$@"; }
echo "text: $(ask --no-stream "What is inference server?" | tr '\n' ' ')"
echo "streamed: $(ask "What is inference server?" | tr '\n' ' ')"
echo "turn: $("$llm" -c --no-stream -o temperature 0 -o max_tokens 16 "Say it again." | tr '\n' ' ')"
echo "error: $("$llm" -m slipstream-nobody "Hi" 2>&1 || true)"

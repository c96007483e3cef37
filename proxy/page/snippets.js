// A request as other programs would send it. Keys are never written out: they are read from the environment.

/** As a curl command for a POSIX shell. */
export function asCurl(url, body, withKey) {
  const lines = [`curl ${quoted(url)}`, `  -H 'Content-Type: application/json'`];
  if (withKey) lines.push(`  -H "Authorization: Bearer $SLIPSTREAM_API_KEY"`);
  lines.push(`  -d ${quoted(JSON.stringify(body, null, 2))}`);
  return lines.join(" \\\n");
}

/** As a Python program with OpenAI's SDK. */
export function asPython(baseUrl, body, withKey) {
  const { model, messages, stream_options, stream, top_k, ...others } = body;
  const named = { model, messages, ...others, stream: true };
  if (top_k !== undefined) named.extra_body = { top_k };
  const written = Object.entries(named).map(([name, value]) => `    ${name}=${literal(value, 4)},\n`);
  const key = withKey ? `os.environ["SLIPSTREAM_API_KEY"]` : `"none"`;
  return [
    withKey ? "import os\n\n" : "",
    `from openai import OpenAI\n\n`,
    `client = OpenAI(base_url=${literal(baseUrl)}, api_key=${key})\n\n`,
    `stream = client.chat.completions.create(\n${written.join("")})\n`,
    `for chunk in stream:\n    print(chunk.choices[0].delta.content or "", end="", flush=True)\n`,
  ].join("");
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A value in Python's notation. */
function literal(value, indent = 0) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const pad = " ".repeat(indent + 4);
  const parts = Array.isArray(value)
    ? value.map((item) => `${pad}${literal(item, indent + 4)},\n`)
    : Object.entries(value).map(([key, item]) => `${pad}${JSON.stringify(key)}: ${literal(item, indent + 4)},\n`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return parts.length ? `${open}\n${parts.join("")}${" ".repeat(indent)}${close}` : open + close;
}

// Vercel's AI SDK: a whole answer, a stream, several turns, an error, a stream that is aborted.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, streamText } from "ai";

const provider = createOpenAICompatible({ name: "slipstream", baseURL: process.argv[2], includeUsage: true });
const settings = { model: provider("primary"), temperature: 0, maxOutputTokens: 16, maxRetries: 0 };
const system = "You are a helpful assistant.";
const prompt = "What is inference server?";

const answer = await generateText({ ...settings, system, prompt });
let streamed = "";
const stream = streamText({ ...settings, system, prompt });
for await (const part of stream.textStream) streamed += part;

const messages = [
  { role: "user", content: prompt },
  { role: "assistant", content: answer.text },
  { role: "user", content: "Say it again." },
];
const turn = (await generateText({ ...settings, system, messages })).text;

let error = "";
try {
  await generateText({ ...settings, model: provider("nobody"), system, prompt });
} catch (refusal) {
  error = APICallError.isInstance(refusal) ? JSON.parse(refusal.responseBody).error.code : String(refusal);
}

const leaving = new AbortController();
const left = streamText({ ...settings, maxOutputTokens: 1000, system, prompt, abortSignal: leaving.signal });
for await (const _ of left.textStream) {
  leaving.abort();
  break;
}

console.log(
  JSON.stringify({
    text: answer.text,
    streamed,
    turn,
    completion_tokens: answer.usage.outputTokens,
    prompt_tokens: answer.usage.inputTokens,
    streamed_completion_tokens: (await stream.usage).outputTokens,
    finish_reason: answer.finishReason,
    error,
  }),
);

// Vercel's AI SDK: a whole answer, a stream, several turns, an error, a stream that is aborted; and its provider for
// OpenAI, which asks for responses.
import { createOpenAI } from "@ai-sdk/openai";
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

const openai = createOpenAI({ baseURL: process.argv[2], apiKey: "none" });
const newer = { ...settings, model: openai("primary"), system, prompt };
const response = await generateText(newer);
let response_streamed = "";
for await (const part of streamText(newer).textStream) response_streamed += part;

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
    response: response.text,
    response_streamed,
    response_prompt_tokens: response.usage.inputTokens,
    completion_tokens: answer.usage.outputTokens,
    prompt_tokens: answer.usage.inputTokens,
    streamed_completion_tokens: (await stream.usage).outputTokens,
    finish_reason: answer.finishReason,
    error,
  }),
);

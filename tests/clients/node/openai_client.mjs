// OpenAI's SDK for Node: a whole answer, a stream, several turns, a completion, a response, an error, a stream that is left.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const settings = { model: "primary", temperature: 0, max_tokens: 16 };
const question = [
  { role: "system", content: "You are a helpful assistant." },
  { role: "user", content: "What is inference server?" },
];

const answer = await client.chat.completions.create({ ...settings, messages: question });
const text = answer.choices[0].message.content;

let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...settings, messages: question, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}

const helper = client.chat.completions.stream({ ...settings, messages: question });
const helped = (await helper.finalChatCompletion()).choices[0].message.content;

const turns = [...question, { role: "assistant", content: text }, { role: "user", content: "Say it again." }];
const turn = (await client.chat.completions.create({ ...settings, messages: turns })).choices[0].message.content;
const completion = (await client.completions.create({ ...settings, prompt: "The capital of France is" })).choices[0].text;

const newer = { model: "primary", temperature: 0, max_output_tokens: 16, instructions: question[0].content };
const response = await client.responses.create({ ...newer, input: question[1].content });
let response_streamed = "";
for await (const event of await client.responses.create({ ...newer, input: question[1].content, stream: true })) {
  if (event.type === "response.output_text.delta") response_streamed += event.delta;
}

let error = "";
try {
  await client.chat.completions.create({ ...settings, model: "nobody", messages: question });
} catch (refusal) {
  error = refusal instanceof OpenAI.NotFoundError ? refusal.code : String(refusal);
}

const left = await client.chat.completions.create({ ...settings, max_tokens: 1000, messages: question, stream: true });
for await (const _ of left) {
  left.controller.abort();
  break;
}

console.log(
  JSON.stringify({
    text,
    streamed,
    async: helped,
    turn,
    completion,
    response: response.output_text,
    response_streamed,
    completion_tokens: answer.usage.completion_tokens,
    prompt_tokens: answer.usage.prompt_tokens,
    finish_reason: answer.choices[0].finish_reason,
    error,
  }),
);

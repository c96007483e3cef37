// How fast an answer came, as whoever waits for it sees it, and what the service counted.

const REASONS = { length: "Cut off at the token limit", tool_calls: "Called a tool" };

export class Stopwatch {
  #asked = performance.now();
  #first = null;
  #last = null;
  #usage = null;
  #reason = null;

  token() {
    this.#last = performance.now();
    this.#first ??= this.#last;
  }

  note(usage, reason) {
    this.#usage = usage ?? this.#usage;
    this.#reason = reason ?? this.#reason;
  }

  /** What is worth saying, in the order of its worth. */
  figures() {
    const figures = [];
    if (this.#first !== null) figures.push(`First token ${seconds(this.#first - this.#asked)}`);
    const rate = this.#rate();
    if (rate) figures.push(`${rate.toFixed(rate < 100 ? 1 : 0)} tokens/s`);
    if (this.#usage) figures.push(tokens(this.#usage));
    if (this.#reason in REASONS) figures.push(REASONS[this.#reason]);
    return figures;
  }

  /** Tokens after the first one by the time they took. */
  #rate() {
    const took = this.#last - this.#first;
    const count = (this.#usage?.completion_tokens ?? 0) - 1;
    return count > 0 && took > 0 ? (1000 * count) / took : 0;
  }
}

function seconds(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

function tokens({ prompt_tokens: read, completion_tokens: written, prompt_tokens_details: details }) {
  const cached = details?.cached_tokens ? ` (${details.cached_tokens} cached)` : "";
  return `${read}${cached} in, ${written} out`;
}

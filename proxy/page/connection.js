// Whether the service is there, and what it says of itself: asked again and again, told to whoever wants to know.

import { Lost, Refusal, getStatus } from "./api.js";

const SECONDS = { live: 3, watched: 1, away: 1, locked: 30 };

/**
 * `state` is "connecting", "live" (a group can answer), "unready" (none can), "locked" (a key is needed) or "away".
 * It sends the event "change" after every look.
 */
export class Connection extends EventTarget {
  state = "connecting";
  status = null;
  isWatched = false; // someone looks at the numbers
  #timer = null;
  #looking = null;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    window.addEventListener("online", () => this.look());
  }

  /** Ask now; joins a question that is under way. */
  look() {
    this.#looking ??= this.#look().finally(() => (this.#looking = null));
    return this.#looking;
  }

  /** Somebody has met nobody there: take it as true until a look says otherwise. */
  doubt() {
    this.state = "away";
    this.dispatchEvent(new Event("change"));
    this.look();
  }

  /** Resolves as soon as a group can answer. */
  live(signal) {
    if (signal.aborted) return Promise.reject(signal.reason);
    if (this.state === "live") return Promise.resolve();
    return new Promise((resolve, reject) => {
      const listening = new AbortController();
      const settle = (act) => () => (listening.abort(), act());
      this.addEventListener("change", () => this.state === "live" && settle(resolve)(), { signal: listening.signal });
      signal.addEventListener("abort", settle(() => reject(signal.reason)), { signal: listening.signal });
    });
  }

  async #look() {
    clearTimeout(this.#timer);
    try {
      this.status = await getStatus();
      this.state = this.status.status === "live" ? "live" : "unready";
    } catch (error) {
      if (error instanceof Refusal) this.state = error.status === 401 ? "locked" : "away";
      else if (error instanceof Lost) this.state = "away";
      else throw error;
    }
    this.dispatchEvent(new Event("change"));
    this.#timer = setTimeout(() => this.#isNeeded() && this.look(), 1000 * this.#pause());
  }

  /** Nobody sees a page in the background, but a question may wait there for the service to come back. */
  #isNeeded() {
    return !document.hidden || this.state === "away" || this.state === "unready";
  }

  #pause() {
    if (this.state === "locked") return SECONDS.locked;
    if (this.state !== "live") return SECONDS.away;
    return this.isWatched ? SECONDS.watched : SECONDS.live;
  }
}

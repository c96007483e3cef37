// Keeps the newest text in sight until the reader scrolls away from it.

const NEAR = 60; // pixels from the end that still count as the end

export class Follower {
  #sticks = true;

  /** `button` leads back to the end, and is there while the reader is elsewhere. */
  constructor(scroller, content, button) {
    this.scroller = scroller;
    scroller.addEventListener("scroll", () => {
      this.#sticks = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR;
      button.hidden = this.#sticks;
    });
    button.addEventListener("click", () => this.catchUp());
    new ResizeObserver(() => this.follow()).observe(content);
  }

  follow() {
    if (this.#sticks) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** Go to the end, and stay there. */
  catchUp() {
    this.#sticks = true;
    this.follow();
  }
}

// A text that the browser keeps for the page; where the browser keeps nothing, until the page is left.

export class Kept {
  #text = "";

  /** `storage` returns one of the browser's; asking for it may throw already. */
  constructor(storage, name) {
    this.storage = storage;
    this.name = name;
    this.#try((store) => (this.#text = store.getItem(name) ?? ""));
  }

  get text() {
    return this.#text;
  }

  set text(text) {
    this.#text = text;
    this.#try((store) => (text ? store.setItem(this.name, text) : store.removeItem(this.name)));
  }

  #try(act) {
    try {
      act(this.storage());
    } catch {
      // the person's choice
    }
  }
}

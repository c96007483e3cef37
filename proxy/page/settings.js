// The settings beside the chat: read, checked, and turned into fields of a request.

const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];

export class Settings {
  constructor(form) {
    this.form = form;
    form.addEventListener("input", () => this.check());
    form.addEventListener("reset", () => setTimeout(() => this.check()));
  }

  get system() {
    return this.form.elements.system.value.trim();
  }

  /** Shows what is wrong; returns the first field that is, or null. */
  check() {
    const wrong = [...NUMBERS, "schema"].filter((name) => !this.#show(name, this.#problem(name)));
    return wrong.length ? this.form.elements[wrong[0]] : null;
  }

  /** The request's fields; only what was set. To be asked when nothing is wrong. */
  fields() {
    const fields = {};
    for (const name of NUMBERS) {
      const { value } = this.form.elements[name];
      if (value !== "") fields[name] = Number(value);
    }
    const schema = this.form.elements.schema.value.trim();
    if (schema) {
      const wanted = { name: "answer", schema: JSON.parse(schema), strict: true };
      fields.response_format = { type: "json_schema", json_schema: wanted };
    }
    return fields;
  }

  #problem(name) {
    const field = this.form.elements[name];
    return name === "schema" ? schemaProblem(field.value) : numberProblem(field);
  }

  #show(name, problem) {
    const field = this.form.elements[name];
    const note = this.form.querySelector(`#e-${name}`);
    field.setAttribute("aria-invalid", String(Boolean(problem)));
    note.textContent = problem;
    note.hidden = !problem;
    return !problem;
  }
}

function numberProblem({ validity, min, max }) {
  if (validity.badInput) return "This is not a number.";
  if (validity.stepMismatch) return "A whole number, please.";
  if (validity.rangeUnderflow) return Number(min) > 0 && Number(min) < 1 ? "More than 0, please." : `At least ${min}, please.`;
  if (validity.rangeOverflow) return `At most ${max}, please.`;
  return "";
}

function schemaProblem(text) {
  if (!text.trim()) return "";
  try {
    const schema = JSON.parse(text);
    const isSchema = typeof schema === "object" && schema !== null && !Array.isArray(schema);
    return isSchema ? "" : "A schema is a JSON object.";
  } catch (error) {
    return `This is not JSON: ${error.message}`;
  }
}

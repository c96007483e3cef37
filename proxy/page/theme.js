// Light or dark: the system's, until somebody chooses here.

import { Kept } from "./kept.js";

export function startTheme(button) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = new Kept(() => localStorage, "slipstream-theme");
  const show = () => chosen.text && (document.documentElement.dataset.theme = chosen.text);
  show();
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    chosen.text = now === "dark" ? "light" : "dark";
    show();
  });
}

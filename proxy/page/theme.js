// Light or dark: the system's, until somebody chooses here.

const KEY = "slipstream-theme";

export function startTheme(button) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = (theme) => theme && (document.documentElement.dataset.theme = theme);
  show(localStorage.getItem(KEY));
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    localStorage.setItem(KEY, next);
    show(next);
  });
}

// The theme's buttons that open a part of the list of pages have no name. They get the name of the part.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("summary:has(.toctree-toggle)")) {
    const link = summary.closest("li").querySelector("a");
    summary.setAttribute("aria-label", link.textContent);
  }
});

// Renders what `pymdownx.arithmatex` marked, with the vendored KaTeX.
document.addEventListener("DOMContentLoaded", () => {
  const delimiters = [
    { left: "\\[", right: "\\]", display: true },
    { left: "\\(", right: "\\)", display: false },
  ];
  for (const element of document.querySelectorAll(".arithmatex")) {
    renderMathInElement(element, { delimiters, throwOnError: true });
  }
});

// Run in the page that pdf.py prints: MathJax draws the equations, and each one's source stands
// for it as a picture's words do.
MathJax = {options: {menuOptions: {settings: {assistiveMml: false}}}};

async function typeset() {
  // Marks that change nothing go: each would be an object of the PDF and double its size.
  for (const span of document.querySelectorAll("pre :is(.n, .p, .w, :empty), code .pre"))
    span.replaceWith(...span.childNodes);
  document.body.normalize();
  await MathJax.startup.promise;
  await document.fonts.ready;
  for (const math of MathJax.startup.document.math) {
    math.typesetRoot.setAttribute("role", "img");
    math.typesetRoot.setAttribute("aria-label", math.math);
    fit(math.typesetRoot);
  }
  for (const table of document.querySelectorAll("table"))
    if (table.offsetWidth > table.parentElement.clientWidth) table.classList.add("tight");
}

// Draw an equation smaller where its line has no room for it, and for its number beside it.
function fit(root) {
  const line = root.closest("div.math, p, li, dt, dd, th, td, figcaption, h1, h2, h3");
  const number = line.querySelector(":scope > .eqno");
  const room = line.clientWidth - (number ? 2 * (number.offsetWidth + 8) : 0);
  const scale = room / root.querySelector("mjx-math").getBoundingClientRect().width;
  if (scale >= 1) return;
  if (scale < 0.75) throw Error(`Too wide to be printed: ${root.getAttribute("aria-label")}`);
  root.style.fontSize = scale * parseFloat(root.style.fontSize) + "%";
}

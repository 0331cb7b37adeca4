// What is folded unfolds when an address points to it or into it: when the page opens, when a link
// is followed (also once more to where one is), and when the reader goes back.
const unfoldAt = (anchor) => {
  const target = document.getElementById(decodeURIComponent(anchor.slice(1)));
  const folded = [];
  for (let it = target; it; it = it.parentElement) {
    if (it.matches("details:not([open])")) folded.push(it);
  }
  folded.forEach((it) => (it.open = true));
  // The browser may have gone there before, when this was shut.
  if (folded.length) target.scrollIntoView();
};

unfoldAt(location.hash);
addEventListener("hashchange", () => unfoldAt(location.hash));
addEventListener("click", ({ target }) => {
  const link = target.closest("a[href]");
  if (link?.hash === location.hash) unfoldAt(link.hash);
});

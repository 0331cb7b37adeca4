// What scrolls sideways can be reached and scrolled with the keyboard. The theme sees to this
// when a page loads, but not for what unfolds later.
const reach = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
  }
});
document.querySelectorAll("pre, table.table, figure").forEach((region) => reach.observe(region));

// The buttons that unfold something speak English alone.
addEventListener("load", () => {
  for (const button of document.querySelectorAll(":lang(zh) .toggle-button")) {
    button.ariaLabel = "展开或收起";
  }
});

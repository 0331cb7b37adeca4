// What scrolls sideways can be reached and scrolled with the keyboard. The theme sees to this
// when a page loads, but not for what unfolds later.
const reach = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
  }
});
document.querySelectorAll("pre, table.table, figure").forEach((region) => reach.observe(region));

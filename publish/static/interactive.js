// Put live figures in the place of their still pictures. The page holds each figure's
// specification in <script type="application/json" data-figure="the figure's id">.
(() => {
  "use strict";

  const element = (tag, attributes, parent) => {
    const made = Object.assign(document.createElement(tag), attributes);
    parent.append(made);
    return made;
  };

  // Panels are as wide as the page allows, so that text keeps its size on a phone.
  const fit = async (result, plot) => {
    const { view, spec } = result;
    const columns = spec.layout?.columns ?? 1;
    const signal = columns > 1 ? "childWidth" : "width";
    const panel = view.signal(signal);
    const drawn = Number(plot.querySelector("svg").getAttribute("width"));
    const room = Math.min(plot.clientWidth, 760);
    const wanted = Math.floor(panel + (room - drawn) / columns);
    if (wanted !== panel && wanted > 0) {
      await view.signal(signal, wanted).resize().runAsync();
    }
  };

  const makeLive = async (source) => {
    const figure = document.getElementById(source.dataset.figure);
    const image = figure.querySelector("img");
    const spec = JSON.parse(source.textContent);
    const live = document.createElement("div");
    live.className = "interactive";
    const plot = element("div", { className: "interactive-plot" }, live);
    const controls = element("div", { className: "interactive-controls" }, live);
    controls.setAttribute("role", "group");
    controls.setAttribute("aria-label", source.dataset.controls);
    const numbers = element("p", { className: "interactive-numbers" }, live);
    numbers.setAttribute("role", "status");
    spec.description = image.alt;
    image.before(live);
    try {
      const result = await vegaEmbed(plot, spec, {
        actions: false,
        bind: controls,
        mode: "vega",
        renderer: "svg",
        tooltip: false,
      });
      await fit(result, plot);
      image.remove();
      new ResizeObserver(() => fit(result, plot)).observe(plot);
      // Read the numbers out once a control has come to rest.
      controls.addEventListener("change", async () => {
        await result.view.runAsync();
        const texts = plot.querySelectorAll(".role-mark.mark-text:not([aria-hidden]) text");
        numbers.textContent = Array.from(texts, (text) => text.textContent).join("; ");
      });
    } catch (error) {
      live.remove(); // the still picture stays
      throw error;
    }
  };

  const waiting = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting) {
          waiting.unobserve(target);
          makeLive(document.querySelector(`script[data-figure="${target.id}"]`));
        }
      }
    },
    { rootMargin: "600px" },
  );
  for (const source of document.querySelectorAll("script[data-figure]")) {
    waiting.observe(document.getElementById(source.dataset.figure));
  }
})();

// Put live figures in the place of their still pictures. The page holds each figure's
// specification in <script type="application/json" data-figure="the figure's id">; its "usermeta"
// has the presets, the handles and the slider that is time (see bn_tutorial.book.interactive).
(() => {
  "use strict";

  const LASTS = 8000; // milliseconds that a slider plays from its start to its end

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

  // The nearest value that a slider can have.
  const onSlider = (value, { min, max, step }) => {
    const steps = Math.round((Math.min(max, Math.max(min, value)) - min) / step);
    return Number((min + steps * step).toFixed(6));
  };

  // Discs overlap on a phone: of those of one mark, the point that is nearest to the finger.
  const nearest = (item, { target, clientX, clientY }, zoom) => {
    const { x, y, width, height } = target.getBoundingClientRect();
    const across = item.x + (clientX - x - width / 2) / zoom;
    const down = item.y + (clientY - y - height / 2) / zoom;
    const distance = (it) => Math.hypot(it.x - across, it.y - down);
    return item.mark.items.reduce((best, it) => (distance(it) <= distance(best) ? it : best));
  };

  // Let handles be dragged along their scale; each sets its control.
  const makeHandles = (figure) => {
    const { view, plot } = figure;
    let drag = null;

    const take = (event, item) => {
      const handle = figure.handles[item?.mark.name];
      if (!handle || event.button > 0) return;
      event.preventDefault(); // select no text
      figure.touched();
      const across = handle.scale.endsWith("x");
      const svg = plot.querySelector("svg");
      const zoom = svg.getBoundingClientRect().width / Number(svg.getAttribute("width"));
      const point = nearest(item, event, zoom);
      const at = (it) => (across ? it.clientX : it.clientY) / zoom;
      const offset = (across ? point.x : point.y) - at(event);
      const { i = 0, origin = 0, unit = 1 } = point.datum;
      const scale = view.scale(handle.scale);
      drag = {
        control: figure.controls.get(handle.controls[i]),
        value: (it) => (scale.invert(at(it) + offset) - origin) / unit,
      };
      plot.setPointerCapture(event.pointerId);
      plot.classList.add("dragging");
    };

    const move = (event) => {
      const value = drag?.value(event);
      if (!Number.isFinite(value)) return; // where the unit is 0, no control moves the point
      view.signal(drag.control.name, onSlider(value, drag.control)).runAsync();
    };

    const drop = () => {
      if (!drag) return;
      drag = null;
      plot.classList.remove("dragging");
      figure.readOut();
    };

    view.addEventListener("pointerdown", take);
    plot.addEventListener("pointermove", move);
    plot.addEventListener("pointerup", drop);
    plot.addEventListener("pointercancel", drop);
    // Chromium ignores touch-action on invisible discs: a finger that holds one must not scroll.
    const hold = (event) => drag && event.preventDefault();
    plot.addEventListener("touchstart", hold, { passive: false });
  };

  // Buttons that put all controls somewhere, and the sentences that say what to look at there.
  const makePresets = (figure, words) => {
    const { view, controls, bar, notes } = figure;

    const add = ({ title, note, settings }) => {
      const button = element("button", { type: "button", textContent: title }, bar);
      const sentence = element("p", { textContent: note }, notes);
      button.addEventListener("click", () => {
        figure.touched();
        for (const { name, value } of controls.values()) view.signal(name, settings[name] ?? value);
        notes.querySelector(".chosen").classList.remove("chosen");
        sentence.className = "chosen";
        if (button.ariaPressed) button.ariaPressed = "true";
        figure.readOut(note);
      });
      return button;
    };

    const buttons = figure.presets.map(add);
    const release = () => buttons.forEach((it) => (it.ariaPressed = "false"));
    release();
    add({ title: words.reset, note: figure.note, settings: {} });
    notes.lastChild.className = "chosen";
    figure.onTouched.push(release);
  };

  // A button that runs a slider from its start to its end.
  const makePlayer = (figure, words) => {
    const { view } = figure;
    const slider = figure.controls.get(figure.play);
    const { name, min, max, step } = slider;
    const button = element("button", { type: "button", textContent: words.play }, figure.bar);
    let timer = null;
    let paused = null; // the value at which it goes on

    const stop = () => {
      if (timer === null) return;
      clearInterval(timer);
      timer = null;
      button.textContent = words.play;
      figure.readOut();
    };

    const advance = () => {
      const next = onSlider(view.signal(name) + step, slider);
      view.signal(name, next).runAsync();
      if (next >= max) stop();
    };

    button.addEventListener("click", () => {
      const playing = timer !== null;
      figure.touched();
      if (playing) {
        paused = view.signal(name);
      } else {
        if (view.signal(name) !== paused) view.signal(name, min).runAsync();
        paused = null;
        button.textContent = words.pause;
        timer = setInterval(advance, (LASTS * step) / (max - min));
      }
    });
    figure.onTouched.push(stop);
  };

  // The parts of a live figure, in the order in which they stand.
  const makeParts = (words) => {
    const live = document.createElement("div");
    live.className = "interactive";
    const part = (name, tag = "div", attributes = {}) =>
      element(tag, { className: `interactive-${name}`, ...attributes }, live);
    return {
      live,
      bar: part("presets", "div", { role: "group", ariaLabel: words.presets }),
      notes: part("notes"),
      plot: part("plot"),
      panel: part("controls", "div", { role: "group", ariaLabel: words.controls }),
      numbers: part("numbers", "p", { role: "status" }),
    };
  };

  // What the parts of a figure share.
  const makeFigure = (parts, spec, view) => {
    const onTouched = [];
    const bound = spec.signals.filter((it) => it.bind);
    return {
      ...parts,
      ...spec.usermeta,
      view,
      controls: new Map(bound.map(({ name, value, bind }) => [name, { ...bind, name, value }])),
      onTouched,
      // The reader has taken the figure in hand.
      touched: () => onTouched.forEach((it) => it()),
      // Read the numbers out once a control has come to rest.
      readOut: async (note = "") => {
        await view.runAsync();
        const texts = parts.plot.querySelectorAll(".role-mark.mark-text:not([aria-hidden]) text");
        const lines = Array.from(texts, (text) => text.textContent).join("; ");
        parts.numbers.textContent = `${note} ${lines}`.trim();
      },
    };
  };

  const makeLive = async (source) => {
    const image = document.getElementById(source.dataset.figure).querySelector("img");
    const spec = JSON.parse(source.textContent);
    const parts = makeParts(source.dataset);
    const { live, plot, panel } = parts;
    spec.description = image.alt;
    image.before(live);
    try {
      const result = await vegaEmbed(plot, spec, {
        actions: false,
        bind: panel,
        mode: "vega",
        renderer: "svg",
        tooltip: false,
      });
      const figure = makeFigure(parts, spec, result.view);
      makeHandles(figure);
      makePresets(figure, source.dataset);
      if (figure.play) makePlayer(figure, source.dataset);
      await fit(result, plot);
      image.remove();
      new ResizeObserver(() => fit(result, plot)).observe(plot);
      panel.addEventListener("input", figure.touched);
      panel.addEventListener("change", () => figure.readOut());
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

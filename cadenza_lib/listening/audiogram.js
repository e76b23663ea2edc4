// An audiogram whose points can be dragged: the left ear blue crosses, the right ear red circles, in steps of 5 dB.
// Traits: frequencies (Hz), left and right (dB HL). Arrow keys move the focused point.

const WIDTH = 430, HEIGHT = 300, EDGE = { left: 46, right: 12, top: 26, bottom: 34 };
const LOWEST_DB = -10, HIGHEST_DB = 120, STEP_DB = 5;
// The shades of the figures, moved towards the colour of the text: darker on a light page, lighter on a dark one.
const shade = (colour) => `color-mix(in srgb, ${colour} 80%, currentColor)`;
const EARS = { left: { colour: shade("#0173b2"), name: "Left" }, right: { colour: shade("#d55e00"), name: "Right" } };

const AUDIOGRAM_STYLE = `
.cadenza-audiogram { color: var(--jp-content-font-color1, inherit); max-width: 520px; min-width: 300px; }
.cadenza-audiogram svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; touch-action: none; user-select: none; }
.cadenza-audiogram text { fill: currentColor; } .cadenza-audiogram .grid { stroke: currentColor; stroke-opacity: .15; }
.cadenza-audiogram .frame { fill: none; stroke: currentColor; stroke-opacity: .5; }
.cadenza-audiogram .loss { fill: none; stroke-width: 2; }
.cadenza-audiogram .mark { fill: none; stroke-width: 2.4; pointer-events: none; }
.cadenza-audiogram .grip { fill: transparent; cursor: ns-resize; outline: none; }
.cadenza-audiogram .grip:hover, .cadenza-audiogram .grip:focus { fill: color-mix(in srgb, currentColor 16%, transparent); }`;

function svg(tag, attributes = {}, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

function render({ model, el }) {
  const frequencies = model.get("frequencies");
  const octaves = Math.log2(frequencies.at(-1) / frequencies[0]);
  const x = (frequency) => EDGE.left + 14 + (WIDTH - EDGE.left - EDGE.right - 28) * Math.log2(frequency / frequencies[0]) / octaves;
  const y = (level) => EDGE.top + (HEIGHT - EDGE.top - EDGE.bottom) * (level - LOWEST_DB) / (HIGHEST_DB - LOWEST_DB);
  const level = (position) => LOWEST_DB + (HIGHEST_DB - LOWEST_DB) * (position - EDGE.top) / (HEIGHT - EDGE.top - EDGE.bottom);
  const snapped = (value) => Math.max(LOWEST_DB, Math.min(HIGHEST_DB, STEP_DB * Math.round(value / STEP_DB)));

  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "Audiogram" });
  const grid = svg("g");
  for (let db = 0; db <= HIGHEST_DB; db += 20) {
    grid.append(svg("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(db), y2: y(db) }));
    grid.append(svg("text", { x: EDGE.left - 6, y: y(db) + 4, "text-anchor": "end" }, db));
  }
  for (const frequency of frequencies) {
    grid.append(svg("line", { class: "grid", x1: x(frequency), x2: x(frequency), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
    const label = frequency < 1000 ? frequency : `${frequency / 1000}k`;
    grid.append(svg("text", { x: x(frequency), y: HEIGHT - EDGE.bottom + 14, "text-anchor": "middle" }, label));
  }
  const middle = (EDGE.top + HEIGHT - EDGE.bottom) / 2;
  grid.append(
    svg("rect", { class: "frame", x: EDGE.left, y: EDGE.top, width: WIDTH - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom }),
    svg("text", { x: (EDGE.left + WIDTH - EDGE.right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "Frequency (Hz)"),
    svg("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, "Hearing threshold (dB HL)"),
    svg("text", { x: EDGE.left, y: 16 }, "Drag a point, or move it with ↑ ↓"),
    svg("text", { x: WIDTH - EDGE.right, y: 16, "text-anchor": "end", style: `fill: ${EARS.right.colour}` }, "○ right"),
    svg("text", { x: WIDTH - EDGE.right - 52, y: 16, "text-anchor": "end", style: `fill: ${EARS.left.colour}` }, "× left"),
  );
  picture.append(grid);

  const lines = {}, marks = {}, grips = {};
  for (const [ear, { colour }] of Object.entries(EARS)) {
    lines[ear] = svg("polyline", { class: "loss", style: `stroke: ${colour}` });
    marks[ear] = frequencies.map(() => svg("path", { class: "mark", style: `stroke: ${colour}` }));
    grips[ear] = frequencies.map((frequency, index) => grip(ear, frequency, index));
    picture.append(lines[ear], ...marks[ear]);
  }
  picture.append(...grips.left, ...grips.right);

  function grip(ear, frequency, index) {
    const node = svg("circle", { class: "grip", r: 10, tabindex: 0, role: "slider", "data-ear": ear, "data-frequency": frequency,
      "data-lm-suppress-shortcuts": "true", "aria-valuemin": LOWEST_DB, "aria-valuemax": HIGHEST_DB,
      "aria-label": `${EARS[ear].name} ear, ${frequency} Hz` });
    node.addEventListener("pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      node.focus({ preventScroll: true });
      event.preventDefault();
    });
    node.addEventListener("pointermove", (event) => {
      if (!node.hasPointerCapture(event.pointerId)) return;
      const box = picture.getBoundingClientRect();
      move(ear, index, level((event.clientY - box.top) * HEIGHT / box.height));
    });
    node.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -STEP_DB, ArrowDown: STEP_DB }[event.key];
      if (step === undefined) return;
      move(ear, index, model.get(ear)[index] + step);
      event.preventDefault();
      event.stopPropagation();
    });
    return node;
  }
  function move(ear, index, to) {
    const levels = [...model.get(ear)];
    if (levels[index] === snapped(to)) return;
    levels[index] = snapped(to);
    model.set(ear, levels);
    model.save_changes();
  }
  function draw() {
    for (const ear of Object.keys(EARS)) {
      const levels = model.get(ear);
      lines[ear].setAttribute("points", levels.map((value, i) => `${x(frequencies[i])},${y(value)}`).join(" "));
      levels.forEach((value, i) => {
        const [cx, cy] = [x(frequencies[i]), y(value)];
        marks[ear][i].setAttribute("d", ear === "left"
          ? `M${cx - 5} ${cy - 5}l10 10m0 -10l-10 10`
          : `M${cx - 6} ${cy}a6 6 0 1 0 12 0a6 6 0 1 0 -12 0`);
        grips[ear][i].setAttribute("cx", cx + (ear === "left" ? -3 : 3)); // so that points on one spot can both be caught
        grips[ear][i].setAttribute("cy", cy);
        grips[ear][i].setAttribute("aria-valuenow", value);
      });
    }
  }
  const style = document.createElement("style"), panel = document.createElement("div");
  style.textContent = AUDIOGRAM_STYLE;
  panel.className = "cadenza-audiogram";
  panel.append(style, picture);
  el.append(panel);
  model.on("change:left", draw);
  model.on("change:right", draw);
  draw();
  return () => {
    model.off("change:left", draw);
    model.off("change:right", draw);
  };
}

export default { render };

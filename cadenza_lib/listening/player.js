// The listening player: all takes run together, one of them is heard. See player.py for what a take holds.
//
// Every start, seek and change of the takes makes a new "deck": one source per take, all started at the same instant
// of the audio clock from the same offset, and cross-faded with the deck before it. Switching moves gains alone.
// Cross-fades are linear because takes are versions of the same music: correlated signals add in amplitude.

const FADE_S = 0.012;
// Decks and fades are scheduled this far ahead, so that all sources make the same sample, and all gains move together
// though the browser may stop the page between two of them.
const LEAD_S = 0.03;
const SEEK_S = 1;
const MOST_SHOWN = 1.6; // of full scale, in the waveform: what lies further beyond is cut off
const HEADROOM_STEP_DB = 6; // so that the common attenuation seldom changes while someone turns a knob

const PLAYER_STYLE = `
.player { --line: color-mix(in srgb, currentColor 22%, transparent); --tint: color-mix(in srgb, currentColor 6%, transparent);
  --accent: #2f7fd1; --clip: #e5484d; font: 13px/1.45 system-ui, sans-serif; color: var(--jp-content-font-color1, inherit);
  border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; margin: 4px 2px; max-width: 1180px; outline: none; }
.player:focus-visible { box-shadow: 0 0 0 2px var(--accent); }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; margin-bottom: 8px; }
.title { font-weight: 600; font-size: 14px; margin-right: auto; overflow-wrap: anywhere; }
.time { font-variant-numeric: tabular-nums; min-width: 6.5em; }
button { font: inherit; color: inherit; background: var(--tint); border: 1px solid var(--line); border-radius: 7px;
  padding: 3px 11px; cursor: pointer; }
button:disabled { opacity: .5; cursor: default; } button:hover { border-color: var(--accent); }
button:focus-visible, tr:focus-visible, canvas:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
button.play { background: var(--accent); border-color: var(--accent); color: #fff; min-width: 5.6em; font-weight: 600; }
button[aria-pressed="true"] { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
canvas { display: block; width: 100%; height: 132px; cursor: pointer; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin-top: 6px; font-variant-numeric: tabular-nums; }
th { font-weight: 500; text-align: right; padding: 2px 10px; opacity: .7; white-space: nowrap; }
td { text-align: right; padding: 4px 10px; white-space: nowrap; }
th.name, td.name { text-align: left; white-space: normal; width: 99%; overflow-wrap: anywhere; }
tbody tr { cursor: pointer; border-top: 1px solid var(--line); } tbody tr:hover { background: var(--tint); }
tr[aria-checked="true"] { background: color-mix(in srgb, var(--accent) 20%, transparent); }
tr[aria-checked="true"] td.name { font-weight: 600; }
kbd { display: inline-block; min-width: 1.5em; text-align: center; margin-right: 9px; border: 1px solid var(--line);
  border-radius: 5px; font: inherit; font-size: 12px; font-weight: 400; }
.clipped { color: color-mix(in srgb, var(--clip) 82%, currentColor); font-weight: 600; }
.pending:not(:empty) { margin-left: 10px; font-weight: 400; font-style: italic; opacity: .7; }
.note { margin-top: 8px; font-size: 12px; opacity: .78; } .error { color: var(--clip); opacity: 1; }`;

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const decibels = (value, unit) => (value === null ? "silent" : `${value.toFixed(1).replace(/^-0\.0$/, "0.0").replace("-", "−")} ${unit}`);
const percent = (share) => (share === 0 ? "0 %" : share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
const amplitude = (gain_db) => 10 ** (gain_db / 20);

function mountPlayer(host, matched = false) {
  const state = { takes: [], buffers: [], active: 0, matched, looping: true, offset_s: 0, deck: null };
  let context = null, master = null, latest = 0;

  const play = element("button", { className: "play", type: "button" });
  const time = element("span", { className: "time" });
  const match = element("button", { className: "match", type: "button", textContent: "Match levels",
    title: "Give all takes one loudness, as high as none of them clips (m)" });
  const loop = element("button", { className: "loop", type: "button", textContent: "Loop", title: "Start again at the end" });
  const title = element("span", { className: "title" });
  const canvas = element("canvas", { tabIndex: 0, role: "slider", ariaLabel: "Position" });
  const rows = element("tbody", { role: "radiogroup", ariaLabel: "Takes" });
  const note = element("div", { className: "note" });
  const header = element("thead", {}, element("tr", {}, ...[["name", "Take"], ["", "Loudness"], ["", "Peak"],
    ["", "Clipped, left"], ["", "Clipped, right"], ["", "Played at"]].map(([className, textContent]) =>
    element("th", { className, textContent, scope: "col" }))));
  // JupyterLab must not take 1 to 6 for headings or the space bar for scrolling.
  const panel = element("div", { className: "player", tabIndex: 0, "data-lm-suppress-shortcuts": "true" },
    element("div", { className: "bar" }, play, time, title, match, loop), canvas,
    element("div", { className: "scroll" }, element("table", {}, header, rows)), note);
  host.setAttribute("data-lm-suppress-shortcuts", "true");
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  root.replaceChildren(element("style", { textContent: PLAYER_STYLE }), panel);

  // Matched takes have the highest common loudness at which no peak exceeds full scale.
  function matchGain_db(index) {
    if (!state.matched || state.takes[index].loudness_lufs === null) return 0;
    const audible = state.takes.filter((take) => take.loudness_lufs !== null);
    return Math.min(...audible.map((take) => take.loudness_lufs - take.peak_dbfs)) - state.takes[index].loudness_lufs;
  }
  function headroom_db() {
    const peaks = state.takes.map((take, i) => (take.peak_dbfs === null ? -Infinity : take.peak_dbfs + matchGain_db(i)));
    return -HEADROOM_STEP_DB * Math.ceil(Math.max(0, ...peaks.map((peak) => peak - 0.005)) / HEADROOM_STEP_DB);
  }
  const gain_db = (index) => matchGain_db(index) + headroom_db();
  const heard = (index) => (index === state.active ? amplitude(gain_db(index)) / state.takes[index].stored_scale : 0);

  const duration_s = () => (state.buffers.length ? Math.min(...state.buffers.map((buffer) => buffer.duration)) : state.takes[0]?.duration_s ?? 0);
  function position_s(at = context?.currentTime ?? 0) {
    if (!state.deck) return state.offset_s;
    const played = Math.max(0, at - state.deck.started) + state.deck.offset_s;
    return state.looping ? played % duration_s() : Math.min(played, duration_s());
  }

  const soon_s = () => context.currentTime + LEAD_S;

  // A gain that fades, and knows its value at a time to come, at which the fade before may still be on its way.
  function makeGain(value) {
    const node = new GainNode(context, { gain: value });
    let fade = { from: value, to: value, start: 0 };
    const valueAt = (at) => fade.from + (fade.to - fade.from) * Math.max(0, Math.min((at - fade.start) / FADE_S, 1));
    function fadeTo(target, start) {
      const reached = valueAt(start);
      node.gain.cancelScheduledValues(start);
      node.gain.linearRampToValueAtTime(reached, start);
      node.gain.linearRampToValueAtTime(target, start + FADE_S);
      fade = { from: reached, to: target, start };
    }
    return { node, fadeTo };
  }
  function stopDeck(start) {
    if (!state.deck) return;
    state.deck.gain.fadeTo(0, start);
    for (const source of state.deck.sources) {
      source.onended = null;
      source.stop(start + FADE_S);
    }
    state.deck = null;
  }
  function startDeck(offset_s) {
    const started = soon_s(), gain = makeGain(0);
    gain.node.connect(master);
    gain.fadeTo(1, started);
    const gains = [], sources = state.buffers.map((buffer, index) => {
      const source = context.createBufferSource(), level = makeGain(heard(index));
      source.buffer = buffer;
      source.loop = state.looping;
      source.loopEnd = duration_s();
      source.connect(level.node).connect(gain.node);
      if (state.looping) source.start(started, offset_s);
      else source.start(started, offset_s, duration_s() - offset_s);
      gains.push(level);
      return source;
    });
    stopDeck(started);
    state.deck = { sources, gains, gain, started, offset_s };
    sources[0].onended = () => { state.deck = null; state.offset_s = 0; show(); };
  }
  function applyGains() {
    if (!state.deck) return;
    const start = soon_s();
    state.deck.gains.forEach((level, index) => level.fadeTo(heard(index), start));
  }

  const decoded = new WeakMap(); // by bytes, so that takes that stay need not be decoded again
  async function decode(take) {
    if (typeof take.audio === "string") return decodeBytes(take);
    if (!decoded.has(take.audio)) decoded.set(take.audio, await decodeBytes(take));
    return decoded.get(take.audio);
  }
  async function decodeBytes(take) {
    const bytes = typeof take.audio === "string" ? Uint8Array.from(atob(take.audio), (c) => c.charCodeAt(0)).buffer
      : take.audio.buffer.slice(take.audio.byteOffset, take.audio.byteOffset + take.audio.byteLength);
    try {
      return await context.decodeAudioData(bytes);
    } catch {
      throw new Error(`This browser cannot decode ${take.media_type}; use a recent Chromium, Firefox or Safari.`);
    }
  }
  async function prepare() {
    if (!context) {
      context = new AudioContext({ sampleRate: state.takes[0].sample_rate });
      master = context.createGain();
      master.connect(context.destination);
    }
    if (context.state === "suspended") await context.resume();
    if (state.buffers.length) return;
    const mine = latest, takes = state.takes;
    const buffers = await Promise.all(takes.map(decode));
    if (mine === latest) state.buffers = buffers; // else newer takes have come meanwhile
  }

  async function toggle() {
    if (state.deck) {
      const end = soon_s();
      state.offset_s = position_s(end);
      stopDeck(end);
      return show();
    }
    try {
      panel.dataset.state = "loading";
      await prepare();
      if (state.buffers.length) startDeck(state.offset_s % duration_s());
    } catch (error) {
      note.textContent = error.message;
      note.className = "note error";
      panel.dataset.state = "error";
      return;
    }
    show();
    animate();
  }
  function select(index) {
    if (index < 0 || index >= state.takes.length) return;
    state.active = index;
    applyGains();
    show();
  }
  function seek(to_s) {
    state.offset_s = Math.max(0, Math.min(to_s, duration_s() - 0.01));
    if (state.deck) startDeck(state.offset_s);
    show();
  }
  function flip(name) {
    const offset_s = position_s();
    state[name] = !state[name];
    if (name === "looping" && state.deck) startDeck(offset_s);
    applyGains();
    show();
  }

  async function update(takes, heading = "") {
    title.textContent = heading;
    const same = takes.length === state.takes.length && takes.every((take, index) => take.audio === state.takes[index].audio);
    if (same) {
      state.takes = takes;
      return show();
    }
    latest += 1;
    const mine = latest;
    if (!state.deck) {
      Object.assign(state, { takes, buffers: [], active: Math.min(state.active, takes.length - 1) });
      return show();
    }
    const buffers = await Promise.all(takes.map(decode));
    if (mine !== latest) return; // dropped: the knob has moved on
    const offset_s = state.deck ? position_s(soon_s()) : null;
    Object.assign(state, { takes, buffers, active: Math.min(state.active, takes.length - 1) });
    if (offset_s !== null) startDeck(offset_s % duration_s());
    show();
  }

  function show() {
    const playing = state.deck !== null;
    play.disabled = state.takes.length === 0;
    play.textContent = playing ? "❚❚ Pause" : "▶ Play";
    match.ariaPressed = state.matched;
    loop.ariaPressed = state.looping;
    rows.replaceChildren(...state.takes.map(row));
    const common = headroom_db();
    note.className = "note";
    const levels = state.matched ? "Levels are matched: see the gain of each take on the right."
      : common < 0 ? `All takes are played ${decibels(-common, "dB")} lower, because one exceeds full scale.` : "Nothing is normalised.";
    note.textContent = `Keys 1–${state.takes.length} switch, space plays, m matches levels, ← → seek. ${levels} Red: samples at or beyond full scale.`;
    Object.assign(panel.dataset, { state: playing ? "playing" : "stopped", active: state.active + 1, matched: state.matched });
    draw();
  }
  function row(take, index) {
    const clipped = [0, 1].map((ear) => element("td", { className: take.clipped_share[ear] ? "clipped" : "",
      textContent: ear < take.clipped_share.length ? percent(take.clipped_share[ear]) : "" }));
    const node = element("tr", { role: "radio", ariaChecked: index === state.active, onclick: () => select(index) },
      element("td", { className: "name" }, element("kbd", { textContent: index + 1 }), take.name,
        element("span", { className: "pending", textContent: take.pending ? "computing…" : "" })),
      element("td", { className: "loudness", textContent: decibels(take.loudness_lufs, "LUFS") }),
      element("td", { className: "peak", textContent: decibels(take.peak_dbfs, "dBFS") }), ...clipped,
      element("td", { className: "gain", textContent: (gain_db(index) >= 0.05 ? "+" : "") + decibels(gain_db(index), "dB") }));
    return node;
  }

  function draw() {
    const width = canvas.clientWidth, height = canvas.clientHeight, take = state.takes[state.active];
    if (!width || !take) return;
    const ratio = window.devicePixelRatio || 1, pen = canvas.getContext("2d"), style = getComputedStyle(panel);
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    pen.scale(ratio, ratio);
    const ears = take.envelope.length, lane = height / ears;
    const peaks = state.takes.map((one) => (one.peak_dbfs === null ? 0 : amplitude(one.peak_dbfs)));
    const limit = 1.05 * Math.min(MOST_SHOWN, Math.max(1, ...peaks)), shown = (value) => Math.max(-limit, Math.min(limit, value));
    const current = position_s() / duration_s() * width;
    const colours = { clip: style.getPropertyValue("--clip"), accent: style.getPropertyValue("--accent") };
    take.envelope.forEach((columns, ear) => {
      const middle = lane * (ear + 0.5), scale = (lane - 6) / 2 / limit;
      for (let x = 0; x < width; x += 1) {
        const [low, high, clipped] = columns[Math.floor(x / width * columns.length)];
        pen.fillStyle = clipped ? colours.clip : colours.accent;
        pen.globalAlpha = x <= current ? 1 : 0.55;
        pen.fillRect(x, middle - shown(high) * scale, 1, Math.max((shown(high) - shown(low)) * scale, 1));
      }
      pen.globalAlpha = 0.35;
      pen.strokeStyle = style.color;
      pen.setLineDash([3, 4]);
      for (const level of [-1, 1]) {
        pen.beginPath();
        pen.moveTo(0, middle - level * scale);
        pen.lineTo(width, middle - level * scale);
        pen.stroke();
      }
      pen.setLineDash([]);
      pen.globalAlpha = 0.8;
      pen.fillStyle = style.color;
      pen.font = "11px system-ui, sans-serif";
      if (ears === 2) pen.fillText(ear ? "right" : "left", 4, lane * ear + 13);
    });
    pen.globalAlpha = 1;
    pen.fillStyle = style.color;
    pen.fillRect(current - 0.75, 0, 1.5, height);
    const seconds = position_s().toFixed(1), total = duration_s().toFixed(1);
    time.textContent = `${seconds} / ${total} s`;
    canvas.ariaValueNow = seconds;
    canvas.ariaValueMax = total;
    canvas.ariaValueMin = 0;
  }
  function animate() {
    draw();
    if (state.deck) requestAnimationFrame(animate);
  }

  play.onclick = toggle;
  match.onclick = () => flip("matched");
  loop.onclick = () => flip("looping");
  canvas.onclick = (event) => {
    const box = canvas.getBoundingClientRect();
    seek((event.clientX - box.left) / box.width * duration_s());
  };
  panel.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onButton = event.target.tagName === "BUTTON" && (event.key === " " || event.key === "Enter");
    if (onButton) return event.stopPropagation(); // the button's own click follows
    const digit = Number.parseInt(event.key, 10);
    if (digit >= 1 && digit <= 9) select(digit - 1);
    else if (event.key === " ") toggle();
    else if (event.key === "m") flip("matched");
    else if (event.key === "ArrowLeft") seek(position_s() - SEEK_S);
    else if (event.key === "ArrowRight") seek(position_s() + SEEK_S);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const resized = new ResizeObserver(draw);
  resized.observe(canvas);

  const handle = {
    update,
    toggle,
    select,
    close() {
      resized.disconnect();
      if (context) context.close();
      state.deck = null;
    },
    // For tests and for whoever wants to connect something else: the graph and what is playing.
    graph: () => ({ context, master, buffers: state.buffers, started: state.deck?.started ?? null }),
    played: () => ({ active: state.active, gains_db: state.takes.map((_, index) => gain_db(index)), position_s: position_s() }),
  };
  host.cadenzaPlayer = handle;
  return handle;
}

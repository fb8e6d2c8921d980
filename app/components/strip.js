// The token strip: a rollout's text coloured by a signal. Text from a record is set as text, never as markup.
// Positions of tokens count from 0 in code and in links, from 1 where a person reads them.

const LEVELS = 20; // colours on each side of the scale's centre
const BINS = 41;

function el(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// A token's text on one line: blanks are dots, line ends arrows, and nothing is a circle.
function visible(text) {
  return text === "" ? "◌" : text.replaceAll("\n", "↵").replaceAll(" ", "·");
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  let text;
  if (Number.isInteger(value) && size < 1e6) text = String(value);
  else if (size < 0.0005 || size >= 1e6) text = value.toExponential(1).replace("e+", "e");
  else text = value.toFixed(size >= 100 ? 0 : size >= 1 ? 2 : size >= 0.01 ? 3 : 4);
  return text.replaceAll("-", "−");
}

class Strip {
  constructor(host) {
    this.host = host;
    this.tip = el("div", "tip");
    this.selected = null;
    this.byRank = true;
    host.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => { this.size(); this.draw(); }).observe(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.theme(); this.draw(); });
  }

  // Shows data, and tells `pick` which token a reader chose. Tokens that are there already are only coloured anew.
  update(data, pick) {
    const started = performance.now();
    const same = this.data && this.data.key === data.key;
    this.data = data;
    this.pick = pick;
    this.theme();
    if (!same) this.build();
    if (!same || data.signal !== this.asked) this.choose(data.signal);
    this.asked = data.signal;
    // What comes back may be what this strip told, while its reader has gone on to another token.
    const echo = same ? this.told.indexOf(data.token) : -1;
    if (echo >= 0) this.told.splice(0, echo + 1);
    else if (!same || data.token !== this.given) this.select(data.token, true);
    this.given = data.token;
    this.host.dataset.milliseconds = (performance.now() - started).toFixed(1);
  }

  theme() {
    const probe = el("span");
    probe.style.color = "var(--bg)";
    this.host.append(probe);
    const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
    probe.remove();
    this.host.classList.toggle("dark", 0.299 * r + 0.587 * g + 0.114 * b < 128);
    const style = getComputedStyle(this.host);
    this.colours = { low: style.getPropertyValue("--low").trim(), high: style.getPropertyValue("--high").trim(),
      fg: getComputedStyle(this.host).color };
  }

  build() {
    const { data, host } = this;
    host.replaceChildren();
    host.classList.toggle("brief", Boolean(data.brief));
    this.selected = null;
    this.told = [];
    if (data.facts) host.append(this.facts());
    if (data.picker) host.append(this.picker());
    this.head = el("div", "head");
    this.map = el("div", "map");
    this.canvas = el("canvas");
    this.window = el("div", "window");
    this.map.append(this.canvas, this.window);
    this.map.title = "The whole rollout: click to go there";
    this.map.addEventListener("click", (event) => {
      const box = this.map.getBoundingClientRect();
      const at = Math.floor(((event.clientX - box.left) / box.width) * data.tokens.length);
      this.select(Math.max(0, Math.min(data.tokens.length - 1, at)), true, true);
    });
    host.append(this.head, this.map, this.bar());
    const body = el("div", "body");
    this.detail = el("div", "detail");
    body.append(this.text(), this.detail);
    host.append(body);
    if (data.prompts) host.append(this.prompts());
    host.append(this.tip);
    this.size();
  }

  size() {
    this.host.classList.toggle("narrow", this.host.clientWidth < 720);
  }

  facts() {
    const facts = el("div", "facts");
    for (const [name, value, kind] of this.data.facts) {
      const one = el("div");
      one.append(el("div", "label", name), el("div", `value ${kind || ""}`, value));
      facts.append(one);
    }
    return facts;
  }

  picker() {
    const picker = el("div", "picker");
    picker.setAttribute("aria-label", "Signal");
    this.data.signals.forEach((signal) => {
      const button = el("button", signal.values === null ? "absent" : "", signal.label);
      button.dataset.signal = signal.key;
      button.addEventListener("click", () => this.choose(signal.key));
      picker.append(button);
    });
    return picker;
  }

  bar() {
    const bar = el("div", "bar");
    const { masks } = this.data;
    if (masks.gated) bar.append(el("span", "mask gated", masks.gated));
    if (masks.cut) bar.append(el("span", "mask cut", masks.cut));
    if (masks.differs) bar.append(el("span", "mask differs", masks.differs));
    const push = el("span", "push");
    this.count = el("span", "count");
    this.order = el("button", "order");
    this.order.addEventListener("click", () => { this.byRank = !this.byRank; this.rank(); });
    this.previous = el("button", "previous", this.data.brief ? "‹" : "‹ previous outlier");
    this.next = el("button", "next", this.data.brief ? "›" : "next outlier ›");
    this.previous.title = "Previous outlier, or press p";
    this.next.title = "Next outlier, or press n";
    this.previous.addEventListener("click", () => this.jump(-1));
    this.next.addEventListener("click", () => this.jump(1));
    bar.append(push, this.count, this.order, this.previous, this.next);
    return bar;
  }

  text() {
    const { data } = this;
    this.box = el("div", "text");
    this.box.tabIndex = 0;
    this.box.setAttribute("aria-label", "Tokens; arrow keys go from one to the next");
    if (data.prompt !== null) this.box.append(el("div", "part prompt", data.prompt));
    const part = el("div", data.masks.gated ? "part tokens gated" : "part tokens");
    const marked = new Set(data.marked || []);
    const special = new Set(data.special);
    this.spans = data.tokens.map((text, index) => {
      const span = document.createElement("span");
      let kinds = "t";
      if (special.has(index)) kinds += " x";
      else if (text[0] === " ") kinds += text.trim() ? " s" : " s w";
      if (marked.has(index)) kinds += " m";
      span.className = kinds;
      span.textContent = text.includes("\n") ? text.replaceAll("\n", "↵\n") : text === "" ? "◌" : text;
      span.i = index;
      return span;
    });
    part.append(...this.spans);
    if (data.more) part.append(el("span", "more", data.more));
    if (data.masks.cut) part.append(el("span", "cut", data.masks.cut));
    this.box.append(part);
    part.addEventListener("pointerover", (event) => this.hover(event));
    part.addEventListener("pointerleave", () => { this.tip.style.display = "none"; });
    part.addEventListener("click", (event) => {
      if (event.target.i !== undefined) this.select(event.target.i, false, true);
    });
    this.box.addEventListener("scroll", () => { this.tip.style.display = "none"; this.frame(); }, { passive: true });
    return this.box;
  }

  prompts() {
    const prompts = el("div", "prompts");
    for (const { title, parts } of this.data.prompts) {
      const side = el("div");
      const pre = el("pre");
      for (const [text, differs] of parts) pre.append(differs ? el("mark", "", text) : document.createTextNode(text));
      side.append(el("h3", "", title), pre);
      prompts.append(side);
    }
    return prompts;
  }

  // Signals -----------------------------------------------------------------------------------------------------------

  value(signal, index) {
    return Array.isArray(signal.values) ? signal.values[index] : signal.values;
  }

  // Of the way from the centre to an end, between -1 and 1.
  share(signal, value) {
    if (value === null || value === undefined) return 0;
    const off = value - signal.centre;
    const whole = off < 0 ? signal.centre - signal.low : signal.high - signal.centre;
    return whole > 0 ? Math.max(-1, Math.min(1, off / whole)) : 0;
  }

  colour(share) {
    if (share === 0) return "transparent";
    const part = Math.round(Math.abs(share) * LEVELS) * (100 / LEVELS);
    return `color-mix(in srgb, var(${share < 0 ? "--low" : "--high"}) ${part}%, transparent)`;
  }

  choose(key) {
    const { data } = this;
    this.signal = data.signals.find((signal) => signal.key === key) || data.signals[0];
    const { signal } = this;
    this.shares = data.tokens.map((_, index) => this.share(signal, this.value(signal, index)));
    const known = new Map();
    for (let level = -LEVELS; level <= LEVELS; level++) known.set(level, this.colour(level / LEVELS));
    this.spans.forEach((span, index) => {
      span.style.backgroundColor = known.get(Math.round(this.shares[index] * LEVELS));
    });
    for (const button of this.host.querySelectorAll(".picker button")) {
      button.setAttribute("aria-pressed", String(button.dataset.signal === signal.key));
    }
    const about = el("div", "about");
    const title = el("div");
    title.append(el("span", "name", signal.label), el("span", "formula", signal.formula));
    about.append(title, el("div", "derived", signal.derived));
    if (signal.note) about.append(el("div", "note", signal.note));
    if (signal.values === null && !data.brief) about.append(this.reason());
    this.head.replaceChildren(about, this.scale());
    this.rank();
    this.draw();
    this.show();
  }

  reason() {
    return el("div", "reason", `Not recorded. ${this.signal.reason}`);
  }

  scale() {
    const { signal, data } = this;
    const box = el("div", "scale");
    const width = (signal.high - signal.low) / BINS;
    const counts = new Array(BINS).fill(0);
    if (signal.values !== null) {
      data.tokens.forEach((_, index) => {
        const value = this.value(signal, index);
        if (value !== null) counts[Math.max(0, Math.min(BINS - 1, Math.floor((value - signal.low) / width)))] += 1;
      });
    }
    const most = Math.max(1, ...counts);
    const bars = el("div", "bars");
    bars.setAttribute("role", "img");
    bars.setAttribute("aria-label", "Histogram of the signal over this rollout, heights by square root");
    counts.forEach((count, bin) => {
      const bar = el("div");
      // By square root, so that a single token beside thousands can still be seen.
      bar.style.height = count ? `${Math.max(5, Math.sqrt(count / most) * 100)}%` : "0";
      const low = signal.low + bin * width;
      bar.title = `${count} token${count === 1 ? "" : "s"} from ${shown(low)} to ${shown(low + width)} ${signal.unit}`;
      bars.append(bar);
    });
    const ramp = el("div", "ramp");
    const zero = ((signal.centre - signal.low) / (signal.high - signal.low)) * 100;
    ramp.style.background = "linear-gradient(to right, " +
      (zero > 0 ? `var(--low) 0%, transparent ${zero}%, ` : "transparent 0%, ") + "var(--high) 100%)";
    this.here = el("div", "here");
    ramp.append(this.here);
    const ticks = el("div", "ticks");
    const first = el("span", "first", signal.ends[0]);
    const last = el("span", "last", `${signal.ends[1]} ${signal.unit}`.trim());
    ticks.append(first, last);
    if (zero > 15) {
      const centre = el("span", "", shown(signal.centre));
      centre.style.left = `${zero}%`;
      ticks.append(centre);
    }
    box.append(data.brief && signal.values === null ? this.reason() : bars, ramp, ticks);
    return box;
  }

  // Outliers: the fiftieth part of the tokens that lies furthest from the centre, at least 10 and at most 100.
  rank() {
    const { signal, data } = this;
    let found = [];
    if (Array.isArray(signal.values)) {
      const reach = Math.max(signal.high - signal.centre, signal.centre - signal.low) / 100;
      const far = (index) => Math.abs(this.value(signal, index) - signal.centre);
      found = data.tokens.map((_, index) => index)
        .filter((index) => this.value(signal, index) !== null && far(index) > reach)
        .sort((a, b) => far(b) - far(a) || a - b)
        .slice(0, Math.min(100, Math.max(10, Math.ceil(data.tokens.length / 50))));
    }
    if (!this.byRank) found.sort((a, b) => a - b);
    this.outliers = found;
    this.order.textContent = this.byRank ? "largest first" : "in reading order";
    this.order.title = "Order in which previous and next go; click to change it";
    this.order.disabled = this.previous.disabled = this.next.disabled = found.length === 0;
    this.tell();
  }

  tell() {
    const place = this.outliers.indexOf(this.selected);
    const all = this.outliers.length;
    this.count.textContent = !all ? "no outliers" : place < 0 ? `${all} outliers` : `outlier ${place + 1} of ${all}`;
  }

  jump(by) {
    const { outliers, selected } = this;
    if (!outliers.length) return;
    let place = outliers.indexOf(selected);
    if (place >= 0) place = (place + by + outliers.length) % outliers.length;
    else if (this.byRank || selected === null) place = by > 0 ? 0 : outliers.length - 1;
    else {
      const after = outliers.findIndex((index) => index > selected);
      place = by > 0 ? Math.max(after, 0) : (after < 0 ? outliers.length : after || outliers.length) - 1;
    }
    this.select(outliers[place], true, true);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowRight: 1, ArrowLeft: -1 };
    if (event.key === "n") this.jump(1);
    else if (event.key === "p") this.jump(-1);
    else if (event.key in moves && event.target === this.box) {
      const last = this.data.tokens.length - 1;
      this.select(this.selected === null ? 0 : Math.max(0, Math.min(last, this.selected + moves[event.key])), true, true);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Selection ---------------------------------------------------------------------------------------------------------

  select(index, scroll, tell) {
    const old = this.spans[this.selected];
    if (old) old.classList.remove("sel");
    const span = this.spans[index];
    this.selected = span ? index : null;
    if (span) {
      span.classList.add("sel");
      if (scroll) {
        const box = this.box.getBoundingClientRect();
        const place = span.getBoundingClientRect();
        if (place.top < box.top + 20 || place.bottom > box.bottom - 20) {
          this.box.scrollTop += place.top - box.top - box.height / 2;
        }
      }
    }
    if (tell && this.pick) {
      this.told.push(index);
      this.pick(index);
      this.remind(index);
    }
    this.tell();
    this.draw();
    this.show();
  }

  // Of choices that follow each other quickly one may get lost on its way: the last one, unless it came back, is told
  // once more.
  remind(index) {
    clearTimeout(this.reminder);
    this.reminder = setTimeout(() => {
      if (this.selected === index && this.told.includes(index)) this.pick(index);
    }, 3000);
  }

  card(index) {
    const { data } = this;
    const card = document.createDocumentFragment();
    const text = data.tokens[index];
    card.append(el("div", "token", visible(text)));
    const kind = data.special.includes(index) ? ", special" : text === "" ? ", part of a character" : "";
    card.append(el("div", "label", `token ${index + 1} of ${data.tokens.length}, id ${data.ids[index]}${kind}`));
    const numbers = el("div", "numbers");
    for (const signal of data.signals) {
      const now = signal.key === this.signal.key ? " now" : "";
      const value = signal.values === null ? null : this.value(signal, index);
      const name = el("div", `n${now}`, signal.label);
      name.style.setProperty("--chip", this.colour(this.share(signal, value)));
      numbers.append(name, el("div", `v${now}`, shown(value)), el("div", "u", value === null ? "" : signal.unit));
    }
    card.append(numbers);
    return card;
  }

  // What student and teacher find most probable at a token, beside each other; the sampled token is marked in both.
  top(index) {
    const { top, tokens, brief } = this.data;
    if (!top) {
      const how = "The most probable tokens were not recorded here: watch.top_k says how many are, for rollouts that the teacher scored.";
      return brief ? el("div") : el("div", "label untold", how);
    }
    const box = el("div", "top");
    for (const [name, title] of [["student", "student p"], ["teacher", "teacher q"]]) {
      const side = el("div");
      side.append(el("div", "label", title));
      for (let at = index * top.k; at < (index + 1) * top.k; at++) {
        const text = top[name].texts[at];
        const logprob = top[name].logprobs[at];
        const line = el("div", text === tokens[index] ? "likely sampled" : "likely");
        const share = logprob === null ? 0 : Math.exp(logprob);
        line.style.setProperty("--share", `${share * 100}%`);
        line.append(el("span", "", visible(text)), el("span", "p", share >= 0.001 ? share.toFixed(3) : shown(share)));
        side.append(line);
      }
      box.append(side);
    }
    return box;
  }

  show() {
    if (!this.signal) return;
    if (this.selected === null) {
      this.detail.replaceChildren(el("div", "label", "Click a token, or go to an outlier, to keep its numbers here."));
      this.here.style.display = "none";
      return;
    }
    this.detail.replaceChildren(this.card(this.selected), this.top(this.selected));
    const value = this.signal.values === null ? null : this.value(this.signal, this.selected);
    const at = (value - this.signal.low) / (this.signal.high - this.signal.low);
    this.here.style.display = value === null ? "none" : "block";
    this.here.style.left = `${Math.max(0, Math.min(1, at)) * 100}%`;
  }

  hover(event) {
    const index = event.target.i;
    const { tip } = this;
    if (index === undefined) {
      tip.style.display = "none";
      return;
    }
    tip.replaceChildren(this.card(index));
    tip.style.display = "block";
    const place = event.target.getClientRects()[0];
    const size = tip.getBoundingClientRect();
    const below = place.bottom + 10 + size.height < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(innerWidth - size.width - 8, place.left))}px`;
    tip.style.top = `${below ? place.bottom + 10 : Math.max(8, place.top - size.height - 10)}px`;
  }

  // The map -----------------------------------------------------------------------------------------------------------

  // Once per frame, however often it is asked for: it measures, and so makes the browser lay out all tokens.
  draw() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = null;
      this.paint();
    });
  }

  paint() {
    const { canvas, shares, data } = this;
    if (!shares || !canvas.clientWidth) return;
    const ratio = devicePixelRatio || 1;
    const width = (canvas.width = Math.round(canvas.clientWidth * ratio));
    const height = (canvas.height = Math.round(canvas.clientHeight * ratio));
    const at = canvas.getContext("2d");
    const marks = data.marked ? Math.round(5 * ratio) : 0;
    const count = data.tokens.length;
    const columns = Math.min(width, count);
    for (let column = 0; column < columns; column++) {
      const first = Math.floor((column * count) / columns);
      const end = Math.max(first + 1, Math.floor(((column + 1) * count) / columns));
      let most = 0;
      for (let index = first; index < end; index++) if (Math.abs(shares[index]) > Math.abs(most)) most = shares[index];
      const left = Math.round((column * width) / columns);
      const right = Math.round(((column + 1) * width) / columns);
      at.globalAlpha = Math.abs(most);
      at.fillStyle = most < 0 ? this.colours.low : this.colours.high;
      at.fillRect(left, 0, Math.max(1, right - left - (right - left > 6 * ratio ? ratio : 0)), height - marks);
    }
    at.globalAlpha = 1;
    at.fillStyle = this.colours.fg;
    for (const index of data.marked || []) {
      const left = (index * width) / count;
      at.fillRect(left, height - marks + ratio, Math.max(ratio, width / count - ratio), marks - ratio);
    }
    if (this.selected !== null) {
      const middle = ((this.selected + 0.5) * width) / count;
      at.fillRect(middle - ratio, 0, 2 * ratio, height);
      at.beginPath();
      at.moveTo(middle - 5 * ratio, 0);
      at.lineTo(middle + 5 * ratio, 0);
      at.lineTo(middle, 6 * ratio);
      at.fill();
    }
    this.frame();
  }

  // What of the rollout is in view.
  frame() {
    const { box, spans, data } = this;
    const scrolls = box.scrollHeight > box.clientHeight + 4;
    this.window.style.display = scrolls ? "block" : "none";
    if (!scrolls) return;
    const view = box.getBoundingClientRect();
    const seek = (edge) => {
      let [low, high] = [0, spans.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (spans[middle].getBoundingClientRect().bottom < edge) low = middle + 1;
        else high = middle;
      }
      return low;
    };
    const from = seek(view.top) / data.tokens.length;
    const to = seek(view.bottom) / data.tokens.length;
    this.window.style.left = `${from * 100}%`;
    this.window.style.width = `${Math.max(0.4, (to - from) * 100)}%`;
  }
}

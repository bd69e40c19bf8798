// Live stock: one watch of everything, a list that draws only the rows in view.

import { call, change } from "./api.js";
import { ask, attempt } from "./dialogs.js";
import { el, named, number, say } from "./dom.js";
import { Flow } from "./plot.js";
import { follow } from "./sse.js";

const WATCH = "watch?min_interval=0.25s";
const PLOT_MS = 1000;
const SPARE_ROWS = 6;

const LEVELS = ["AVAILABLE", "LOW", "OUT"];

/** An item as the page needs it; int64 come as texts, and zeros do not come. */
export function itemOf(json) {
  const count = (name) => Number(json[name] ?? 0);
  const item = {
    sku: json.sku,
    pool: json.pool ?? "",
    name: json.displayName ?? "",
    capacity: count("capacity"),
    remaining: count("remaining"),
    held: count("held"),
    confirmed: count("confirmed"),
    oversell: count("oversellLimit"),
    buffer: count("buffer"),
    waiting: count("waiting"),
    lowAt: json.lowAt === undefined ? null : Number(json.lowAt),
    closed: json.saleState === "SALE_STATE_CLOSED",
  };
  item.available = Math.max(0, item.remaining + item.oversell - item.buffer);
  item.level = item.available === 0 ? "OUT" : item.lowAt !== null && item.available <= item.lowAt ? "LOW" : "AVAILABLE";
  return item;
}

const keyOf = (item) => `${item.sku}\n${item.pool ?? ""}`;

/** What is known of the stock; it lives as long as the tab, whatever page is shown. */
export class Stock {
  constructor(onState) {
    this.items = new Map();
    this.flow = new Flow();
    this.complete = false;
    this.changes = 0;
    this.listeners = new Set();
    this.state = "connecting";
    this.stream = follow(WATCH, {
      begin: () => (this.seen = new Set()),
      message: (message) => this.#take(message),
      state: (state, detail) => {
        this.state = state;
        this.refusal = detail.error;
        onState(state, detail);
        this.#tell();
      },
    });
  }

  stop() {
    this.stream.stop();
  }

  #take(message) {
    for (const json of message.items ?? []) {
      const item = itemOf(json);
      const key = keyOf(item);
      const before = this.items.get(key);
      // An adjusted capacity was neither taken nor given back.
      const moved = before ? item.remaining - before.remaining : 0;
      if (moved && moved !== item.capacity - before.capacity) this.flow.add(moved);
      this.items.set(key, item);
      this.seen?.add(key);
      if (before) this.changes += 1;
    }
    for (const gone of message.deletedItems ?? []) this.items.delete(keyOf(gone));
    if (message.snapshotComplete) {
      for (const key of this.items.keys()) if (!this.seen?.has(key)) this.items.delete(key);
      this.seen = null;
      this.complete = true;
    }
    this.#tell();
  }

  #tell() {
    for (const listener of this.listeners) listener();
  }
}

/** The page of the stock; returns what ends it. */
export function showStock(page, stock, caller) {
  const filter = el("input", { type: "search", placeholder: "sku, name or pool", "aria-label": "Filter" });
  const level = el(
    "select",
    { "aria-label": "Level" },
    el("option", { value: "" }, "every level"),
    el("option", { value: "LOW" }, "low"),
    el("option", { value: "OUT" }, "sold out"),
    el("option", { value: "CLOSED" }, "closed"),
  );
  const totals = el("dl.totals");
  const figures = {};
  for (const [name, label] of [
    ["items", "items"],
    ["available", "available"],
    ["held", "held"],
    ["confirmed", "confirmed"],
    ["taken", "taken in a minute"],
    ["back", "given back in a minute"],
  ]) {
    figures[name] = el("dd", {}, "–");
    totals.append(el("div", {}, el("dt", {}, label), figures[name]));
  }
  const canvas = el("canvas.plot", { role: "img", "aria-label": "Units taken and given back in the last five minutes" });
  const legend = el(
    "p.legend",
    {},
    ...["confirmed", "held", "free"].map((part) => el(`span.${part}`, {}, part === "free" ? "available" : part)),
  );
  const list = new Rows((item) => openItem(item, caller));
  const empty = el("p.quiet");
  page.replaceChildren(
    el("section.summary", {}, totals, canvas),
    el("section", {}, el("div.toolbar", {}, filter, level, legend), empty, list.element),
  );

  let shown = [];
  let drawn = false;
  function choose() {
    const wanted = filter.value.trim().toLowerCase();
    shown = [...stock.items.values()].filter(
      (item) =>
        (!wanted || `${item.sku} ${item.name} ${item.pool}`.toLowerCase().includes(wanted)) &&
        (!level.value || (level.value === "CLOSED" ? item.closed : item.level === level.value)),
    );
    shown.sort((a, b) => (a.sku < b.sku ? -1 : a.sku > b.sku ? 1 : a.pool < b.pool ? -1 : 1));
  }
  function draw() {
    drawn = false;
    const sums = { items: stock.items.size, available: 0, held: 0, confirmed: 0 };
    for (const item of stock.items.values()) {
      sums.available += item.available;
      sums.held += item.held;
      sums.confirmed += item.confirmed;
    }
    for (const [name, sum] of Object.entries(sums)) say(figures[name], number.format(sum));
    list.show(shown);
    say(empty, emptiness(stock, shown));
    empty.hidden = shown.length > 0;
  }
  let known = -1;
  function changed() {
    // The order changes only with the items, or with the filter of levels.
    if (stock.items.size !== known || level.value) choose();
    else shown = shown.map((item) => stock.items.get(keyOf(item)) ?? item);
    known = stock.items.size;
    if (!drawn) {
      drawn = true;
      requestAnimationFrame(draw);
    }
  }
  function refilter() {
    known = -1;
    changed();
  }
  filter.addEventListener("input", refilter);
  level.addEventListener("input", refilter);
  stock.listeners.add(changed);
  const plotting = setInterval(() => {
    stock.flow.draw(canvas);
    say(figures.taken, number.format(stock.flow.sum("taken", 60)));
    say(figures.back, number.format(stock.flow.sum("back", 60)));
  }, PLOT_MS);
  changed();
  stock.flow.draw(canvas);
  return () => {
    stock.listeners.delete(changed);
    clearInterval(plotting);
    list.stop();
  };
}

function emptiness(stock, shown) {
  if (shown.length) return "";
  if (stock.state === "refused") return `The stock is not shown: ${stock.refusal.message}.`;
  if (!stock.complete) return "Reading the stock …";
  return stock.items.size ? "No item fits the filter." : "There is no item yet: create one with CreateItem or `holdsvc items import`.";
}

/** Rows of one height in a box that scrolls: only those in view exist. */
class Rows {
  constructor(open) {
    this.open = open;
    this.items = [];
    this.rows = [];
    this.space = el("div.space");
    this.element = el("div.rows", { role: "list", "aria-label": "Items" }, this.space);
    this.element.addEventListener("scroll", () => this.#draw(), { passive: true });
    this.element.addEventListener("keydown", (event) => this.#move(event));
    this.resizing = new ResizeObserver(() => this.#draw());
    this.resizing.observe(this.element);
  }

  stop() {
    this.resizing.disconnect();
  }

  show(items) {
    this.items = items;
    this.#draw();
  }

  get #height() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row"));
  }

  #draw() {
    // A frame that was asked for, or a change of size, comes after the page was left, too: there is no height then.
    if (!this.element.isConnected) return;
    const height = this.#height;
    this.space.style.height = `${this.items.length * height}px`;
    const first = Math.max(0, Math.floor(this.element.scrollTop / height) - SPARE_ROWS);
    const count = Math.min(
      this.items.length - first,
      Math.ceil(this.element.clientHeight / height) + 2 * SPARE_ROWS,
    );
    while (this.rows.length < count) this.rows.push(this.#row());
    while (this.rows.length > Math.max(0, count)) this.rows.pop().element.remove();
    this.rows.forEach((row, at) => this.#fill(row, first + at, height));
  }

  #row() {
    const part = (name) => el(`i.${name}`);
    const row = {
      name: el("span.name"),
      more: el("span.more.quiet"),
      parts: { confirmed: part("confirmed"), held: part("held"), free: part("free") },
      count: el("span.count"),
      level: el("span.level"),
    };
    row.element = el(
      "button.row",
      { type: "button", onclick: () => this.open(row.item) },
      el("span.title", {}, row.name, row.more),
      el("span.bar", { "aria-hidden": "true" }, ...Object.values(row.parts)),
      row.count,
      row.level,
    );
    this.space.append(el("div", { role: "listitem" }, row.element));
    row.element = row.element.parentElement;
    return row;
  }

  #fill(row, at, height) {
    const item = this.items[at];
    row.at = at;
    row.item = item;
    row.element.style.transform = `translateY(${at * height}px)`;
    say(row.name, named(item));
    say(row.more, item.waiting ? `${item.name} ${number.format(item.waiting)} waiting` : item.name);
    const whole = Math.max(1, item.capacity, item.held + item.confirmed);
    const shares = { confirmed: item.confirmed, held: item.held, free: Math.max(0, item.remaining) };
    for (const [part, units] of Object.entries(shares)) row.parts[part].style.width = `${(100 * units) / whole}%`;
    say(row.count, `${number.format(item.available)} of ${number.format(item.capacity)}`);
    const level = item.closed ? "CLOSED" : item.level;
    if (row.shownLevel !== level) {
      row.level.classList.remove(...LEVELS.map((each) => each.toLowerCase()), "closed");
      row.level.classList.add(level.toLowerCase());
      row.shownLevel = level;
    }
    say(row.level, { AVAILABLE: "available", LOW: "low", OUT: "sold out", CLOSED: "closed" }[level]);
  }

  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    const current = this.rows.find((row) => row.element.contains(document.activeElement));
    if (!step || !current) return;
    event.preventDefault();
    const to = Math.min(this.items.length - 1, Math.max(0, current.at + step));
    const height = this.#height;
    const top = this.element.scrollTop;
    if (to * height < top) this.element.scrollTop = to * height;
    if ((to + 1) * height > top + this.element.clientHeight) {
      this.element.scrollTop = (to + 1) * height - this.element.clientHeight;
    }
    this.#draw();
    this.rows.find((row) => row.at === to)?.element.firstElementChild.focus();
  }
}

/** An item's figures and what may be done with it. */
function openItem(item, caller) {
  const may = caller.may("inventory.write");
  const dialog = el("dialog.item", { "aria-label": named(item) });
  const close = () => dialog.close();
  const facts = [
    ["available", item.available],
    ["remaining", item.remaining],
    ["held", item.held],
    ["confirmed", item.confirmed],
    ["capacity", item.capacity],
    item.oversell && ["oversell limit", item.oversell],
    item.buffer && ["buffer", item.buffer],
    item.lowAt !== null && ["low at", item.lowAt],
    item.waiting && ["waiting", item.waiting],
  ].filter(Boolean);
  const id = { sku: item.sku, ...(item.pool ? { pool: item.pool } : {}) };

  async function adjust(event) {
    const button = event.currentTarget;
    const given = await ask({
      title: `Adjust ${named(item)}`,
      text: `The capacity is ${number.format(item.capacity)}.`,
      action: "Adjust",
      danger: true,
      fields: [
        { name: "delta", label: "Units more, or with a minus less", type: "number", attributes: { required: true, step: 1 } },
        { name: "reason", label: "Reason", attributes: { maxlength: 500 } },
      ],
    });
    if (!given) return;
    const done = await attempt(
      button,
      () => change("Inventory", "AdjustCapacity", { ...id, delta: given.delta, reason: given.reason }),
      `The capacity of ${named(item)} is adjusted.`,
    );
    if (done) close();
  }

  async function toggle(event) {
    const button = event.currentTarget;
    const question = item.closed
      ? { title: `Open ${named(item)}`, text: "New holds are accepted again.", action: "Open the sale" }
      : {
          title: `Stop the sale of ${named(item)}`,
          text: "New holds are refused at once; holds that exist can still be confirmed.",
          action: "Stop the sale",
          danger: true,
        };
    if (!(await ask(question))) return;
    const saleState = item.closed ? "SALE_STATE_OPEN" : "SALE_STATE_CLOSED";
    const done = await attempt(
      button,
      () => call("Inventory", "UpdateItem", { item: { ...id, saleState }, updateMask: "saleState" }),
      `The sale of ${named(item)} is ${item.closed ? "open" : "stopped"}.`,
    );
    if (done) close();
  }

  dialog.append(
    el("h2", {}, named(item)),
    item.name && el("p.quiet", {}, item.name),
    el("dl.facts", {}, ...facts.flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, number.format(value))])),
    el(
      "p.actions",
      {},
      el("button", { type: "button", onclick: close }, "Close"),
      el("a.button", { href: `#holds?sku=${encodeURIComponent(item.sku)}`, onclick: close }, "Reservations"),
      item.waiting > 0 && el("a.button", { href: `#waitlist?sku=${encodeURIComponent(item.sku)}`, onclick: close }, "Waitlist"),
      may && el("button", { type: "button", onclick: adjust }, "Adjust capacity"),
      may &&
        el(
          `button${item.closed ? ".main" : ".danger"}`,
          { type: "button", onclick: toggle },
          item.closed ? "Open the sale" : "Stop the sale",
        ),
    ),
    !may && el("p.quiet", {}, "This key may not change items: it lacks the scope inventory.write."),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

// Elements are made from text, never from markup: a name such as <img src=x> stays a name.

/**
 * Makes an element.
 * @param {string} tag e.g. "p" or "p.quiet.number"
 * @param {Record<string, unknown>} properties attributes; `on…` are listeners, true and false set or leave an attribute
 * @param {...(Node | string | number | null | false)} children
 */
export function el(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  made.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== false));
  return made;
}

/** Sets an element's text, and touches the page only if it is another. */
export function say(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export const number = new Intl.NumberFormat();

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

/** A time of the service, as people here read it; empty where there is none. */
export function moment(text) {
  return text ? MOMENT.format(new Date(text)) : "";
}

/** What is left of a time in seconds: 4:05, 1:02:33, 3 d 4 h. */
export function remaining(seconds) {
  if (seconds <= 0) return "over";
  const whole = Math.ceil(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  const two = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** A sku with its pool, where it is not the default one. */
export function named(item) {
  return item.pool ? `${item.sku} · ${item.pool}` : item.sku;
}

/** A table that scrolls sideways rather than widening the page. */
export function table(columns, body) {
  const head = columns.map((name) => el("th", { scope: "col" }, name));
  return el("div.table", {}, el("table", {}, el("thead", {}, el("tr", {}, ...head)), body));
}

/** A value of an enum as words. */
export function words(value, prefix) {
  return (value ?? "").replace(prefix, "").toLowerCase().replaceAll("_", " ");
}

let noticeNumber = 0;

/** Tells of something at the foot of the page for a few seconds; an error stays until it is closed. */
export function notice(text, { error = false } = {}) {
  const id = `notice-${(noticeNumber += 1)}`;
  const box = el(`p.notice${error ? ".error" : ""}`, { id }, text);
  box.append(el("button", { type: "button", "aria-label": "Close", onclick: () => box.remove() }, "×"));
  document.getElementById("notices").append(box);
  if (!error) setTimeout(() => box.remove(), 4000);
}

// The console: who calls, the connection, and the page that the address names.

import { call, key } from "./api.js";
import { askForKey } from "./dialogs.js";
import { el, say } from "./dom.js";
import { showHolds } from "./holds.js";
import { showLimits } from "./limits.js";
import { showReservation } from "./reservation.js";
import { showStock, Stock } from "./stock.js";
import { showWaitlist } from "./waitlist.js";

const THEME = "holdsvc-theme";

/** Pages that only some keys may read. */
const OPEN_TO = {
  holds: ["reserve", "reservations.read_all"],
  waitlist: ["waitlist.join", "waitlist.read", "waitlist.manage"],
  limits: ["reserve", "reservations.read_all", "limits.write"],
};

const page = document.getElementById("page");
const connection = document.getElementById("connection");

let stock = null;
let caller = null;
let leave = () => {};
let countdown = 0;
let begun = 0;

/** Who calls, as the service sees it. */
class Caller {
  constructor({ tenant = "", client = "", scopes = [] }) {
    Object.assign(this, { tenant, client, scopes: new Set(scopes) });
  }

  may(scope) {
    return this.scopes.has(scope);
  }
}

async function begin() {
  const turn = (begun += 1);
  clearInterval(countdown);
  stock?.stop();
  stock = null;
  try {
    const found = new Caller(await call("Admin", "GetCaller"));
    if (turn !== begun) return;
    caller = found;
  } catch (error) {
    // It has begun again meanwhile, with another key.
    if (turn !== begun) return;
    caller = new Caller({});
    if (error.code === "unauthenticated") {
      say(connection, "needs a key");
      page.replaceChildren(el("section", {}, el("p", {}, "This service asks for an API key: `holdsvc keys create` makes one.")));
      if (await askForKey(key.get() ? error.message : "")) await begin();
      return;
    }
    // The service is not there yet.
    showConnection("lost", { retryMs: 2000 });
    setTimeout(() => turn === begun && begin(), 2000);
    return;
  }
  say(document.getElementById("caller"), `${caller.tenant} · ${caller.client}`);
  for (const [name, scopes] of Object.entries(OPEN_TO)) {
    document.querySelector(`a[href="#${name}"]`).hidden = !scopes.some((scope) => caller.may(scope));
  }
  stock = new Stock(showConnection);
  route();
}

function showConnection(state, { retryMs, error } = {}) {
  clearInterval(countdown);
  connection.dataset.state = state;
  if (state === "live") say(connection, "live");
  if (state === "refused") {
    say(connection, error.code === "unauthenticated" ? "needs a key" : "not live");
    if (error.code === "unauthenticated") begin();
  }
  if (state === "lost") {
    const until = Date.now() + retryMs;
    const tell = () => say(connection, `connection lost; again in ${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s`);
    tell();
    countdown = setInterval(tell, 500);
  }
}

function route() {
  if (!stock) return;
  const [path, query = ""] = location.hash.slice(1).split("?");
  const [name, id = ""] = path.split("/");
  leave();
  document.querySelectorAll("nav a").forEach((link) => {
    const current = link.hash === `#${name || "stock"}` || (name === "reservation" && link.hash === "#holds");
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  if (name === "holds") leave = showHolds(page, new URLSearchParams(query));
  else if (name === "reservation") leave = showReservation(page, decoded(id), caller);
  else if (name === "waitlist") leave = showWaitlist(page, new URLSearchParams(query), caller);
  else if (name === "limits") leave = showLimits(page);
  else leave = showStock(page, stock, caller);
}

/** A part of the address, which a person may have typed. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

document.getElementById("key").addEventListener("click", async () => {
  if (await askForKey()) await begin();
});
document.getElementById("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = dark ? "light" : "dark";
  localStorage.setItem(THEME, theme);
  applyTheme(theme);
});
applyTheme(localStorage.getItem(THEME));
window.addEventListener("hashchange", route);
begin();

// Questions before a change, and the form that asks for the key.

import { key } from "./api.js";
import { el, notice } from "./dom.js";

/**
 * Asks in a dialog; resolves to the fields' values, or null when the person thinks better of it.
 * @param {{title: string, text?: string, action: string, danger?: boolean,
 *   fields?: {name: string, label: string, type?: string, value?: string, options?: [string, string][], attributes?: object}[]}} question
 */
export function ask({ title, text = "", action, danger = false, fields = [] }) {
  const inputs = new Map(fields.map((field) => [field.name, input(field)]));
  const dialog = el("dialog", { "aria-label": title });
  const form = el(
    "form",
    { method: "dialog", onsubmit: () => (dialog.returnValue = "yes") },
    el("h2", {}, title),
    text && el("p", {}, text),
    ...fields.map((field) => el("label", {}, field.label, inputs.get(field.name))),
    el(
      "p.actions",
      {},
      el("button", { type: "button", onclick: () => dialog.close("") }, "Back"),
      el(`button.${danger ? "danger" : "main"}`, { type: "submit" }, action),
    ),
  );
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      const values = Object.fromEntries([...inputs].map(([name, field]) => [name, field.value.trim()]));
      resolve(dialog.returnValue === "yes" ? values : null);
    });
  });
}

function input({ name, type = "text", value = "", options, attributes = {} }) {
  if (options) {
    return el("select", { name, ...attributes }, ...options.map(([id, label]) => el("option", { value: id }, label)));
  }
  return el("input", { name, type, value, autocomplete: "off", ...attributes });
}

/** Asks for an API key; returns whether there is another one now. */
export async function askForKey(why = "") {
  const given = await ask({
    title: "API key",
    text: `${why ? `${why}. ` : ""}The key stays in this tab and is forgotten with it.`,
    action: "Use it",
    // What cannot be sent in a header would look as if the service were away.
    fields: [{ name: "key", label: "Key", type: "password", attributes: { placeholder: "holdsvc_…", pattern: "[ -~]*" } }],
  });
  if (given === null || given.key === key.get()) return false;
  key.set(given.key);
  return true;
}

/** Runs a change, disables its button meanwhile, and tells what came of it; returns its answer or null. */
export async function attempt(button, work, done) {
  button.disabled = true;
  try {
    const answer = await work();
    notice(done);
    return answer;
  } catch (error) {
    notice(error.reason ? `${error.reason}: ${error.message}` : error.message, { error: true });
    return null;
  } finally {
    button.disabled = false;
  }
}

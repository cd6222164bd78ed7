// What all tabs use: elements, requests, numbers in words.
export const get = id => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const clock = secs => `${Math.floor(secs / 60)}:${String(Math.floor(secs % 60)).padStart(2, "0")}`;
export const percent = share => `${Math.round(100 * share)} %`;
export const say = (text, isFault = false) => {
  get("message").textContent = text;
  get("message").className = isFault ? "fault" : "";
};
export const announce = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));
export const hear = (name, listener) => document.addEventListener(name, event => listener(event.detail));

/** The answer of the server; an error in words is thrown. `body` makes it a POST. */
export async function ask(name, query = {}, body, signal) {
  const options = body === undefined ? { signal } : { method: "POST", body, signal };
  let answer;
  try {
    answer = await fetch(`api/${name}?${new URLSearchParams(query)}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("no answer: is tools.explore still running?");
  }
  const found = await answer.json().catch(() => ({ error: answer.statusText }));
  if (found.error) throw new Error(found.error);
  return found;
}

/** Runs an action; says why it failed. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

/** Calls of the returned function abort the one before: a late answer is never shown. */
export function newestOnly(action) {
  let controller;
  return (...values) => {
    controller?.abort();
    controller = new AbortController();
    return attempt(() => action(controller.signal, ...values));
  };
}

/** Fills a list with labels and their scores. */
export function bars(list, pairs) {
  list.replaceChildren(...pairs.map(([label, score]) => {
    const item = element("li", {}, `${label} ${percent(score)}`);
    item.style.setProperty("--share", score);
    return item;
  }));
}

/** Fills a list with similar files; `choose` is called with the row of one. */
export function similar(list, rows) {
  list.replaceChildren(...rows.map(row => element("li", {}, `${row.name} `,
    element("span", { className: "soft" }, `${row.genre} ${row.similarity.toFixed(2)}`), " ",
    playButton(row), " ", listenButton(row))));
  if (!rows.length) list.replaceChildren(element("li", {}, "no other file"));
}

const button = (row, text, title, name) => {
  const made = element("button", { type: "button", textContent: text, onclick: () => announce(name, row) });
  made.setAttribute("aria-label", `${title} ${row.name}`);
  return made;
};
export const playButton = row => button(row, "▶", "Play", "play");
export const listenButton = row => button(row, "Listen", "Listen to", "listen");

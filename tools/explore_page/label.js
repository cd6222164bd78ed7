// Files are sent one after another; the table shows what the model says.
import { announce, ask, attempt, element, get, hear, listenButton, newestOnly, percent, playButton, say } from "./common.js";

// Title, name of the order, whether the highest come first, class.
const COLUMNS = [["File", "path", false, ""], ["Best", "label", false, ""], ["Score", "score", true, "number"],
  ["Remarks", "familiarity", false, "optional"], ["Given", null, false, ""]];
const PAGE = 200;
let order = "path", isReversed = false, count = PAGE, maxBytes = Infinity, suffixes = [];
const waiting = [];
let isSending = false;

function sortBy(name) {
  isReversed = order === name && !isReversed;
  order = name;
  refresh();
}

function columns() {
  return element("tr", {}, ...COLUMNS.map(([title, name, isHighestFirst, className]) => {
    if (!name) return element("th", { scope: "col" }, title);
    const isFalling = isHighestFirst !== isReversed;
    const arrow = order === name ? (isFalling ? " ▼" : " ▲") : "";
    const head = element("th", { scope: "col", className }, element("button", { type: "button", onclick: () => sortBy(name) }, title + arrow));
    head.ariaSort = order !== name ? "none" : isFalling ? "descending" : "ascending";
    return head;
  }), element("th", { scope: "col" }, "Play"));
}

function line(row) {
  const remarks = [row.error, row.verdict, row.note].filter(Boolean).join("; ");
  return element("tr", {},
    element("td", { textContent: row.name }),
    element("td", { textContent: row.error ? "failed" : row.genre, className: row.error ? "fault" : "" }),
    element("td", { textContent: row.score === null ? "" : percent(row.score), className: "number" }),
    element("td", { textContent: remarks, className: row.error ? "fault optional" : "soft optional" }),
    element("td", { textContent: row.truth, className: row.truth && row.truth !== row.genre ? "changed" : "" }),
    element("td", { className: "actions" }, ...(row.error ? [] : [playButton(row), listenButton(row)])));
}

const refresh = newestOnly(async signal => {
  const found = await ask("rows", { order, descending: Number(isReversed), text: get("filter-text").value, genre: get("filter-genre").value, count }, undefined, signal);
  const focused = [...get("columns").querySelectorAll("button")].indexOf(document.activeElement);
  get("columns").replaceChildren(columns());
  if (focused >= 0) get("columns").querySelectorAll("button")[focused].focus();
  get("rows").replaceChildren(...found.rows.map(line));
  if (!found.total) get("rows").append(element("tr", {}, element("td", { colSpan: 6, className: "soft" }, "No files yet.")));
  get("count").textContent = found.total > found.rows.length ? `${found.rows.length} of ${found.total} files` : `${found.total} files`;
  get("more").hidden = found.total <= found.rows.length;
});

async function send() {
  if (isSending) return;
  isSending = true;
  const faults = [];
  while (waiting.length) {
    const [name, file] = waiting.shift();
    say(waiting.length ? `Sending ${name}; ${waiting.length} more wait` : `Sending ${name}`);
    try {
      if (file.size > maxBytes) throw new Error(`larger than ${maxBytes / 2 ** 30} GiB; cut it, or convert it to MP3`);
      await ask("upload", { name }, file);
    } catch (error) { faults.push(`${name}: ${error.message}`); }
  }
  say(faults.slice(0, 3).join("; ") + (faults.length > 3 ? `; and ${faults.length - 3} more` : ""), true);
  isSending = false;
}

function add(named) {
  // Folders hold pictures and lists too.
  const isAudio = ([name]) => !name.includes("/") || suffixes.some(suffix => name.toLowerCase().endsWith(suffix));
  waiting.push(...named.filter(isAudio));
  send();
}

/** Files of what was dropped, folders included, with their paths. */
async function walk(entry) {
  if (entry.isFile) return new Promise((good, bad) => entry.file(file => good([[entry.fullPath.slice(1), file]]), bad));
  const reader = entry.createReader(), found = [];
  for (;;) {  // a hundred entries at a time
    const part = await new Promise((good, bad) => reader.readEntries(good, bad));
    if (!part.length) return found;
    for (const each of part) if (!each.name.startsWith(".")) found.push(...await walk(each));
  }
}

for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, event => {
  event.preventDefault();
  get("drop").classList.toggle("over", kind === "dragover");
});
document.addEventListener("drop", event => attempt(async () => {
  const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  const plain = [...event.dataTransfer.files].map(file => [file.name, file]);
  if (!entries.length && !plain.length) return;
  announce("open", "label");
  add(entries.length ? (await Promise.all(entries.map(walk))).flat() : plain);
}));
for (const id of ["file", "folder"]) get(id).addEventListener("change", event => {
  add([...event.target.files].map(file => [file.webkitRelativePath || file.name, file]));
  event.target.value = "";
});
get("label-collection").addEventListener("click", () => attempt(() => ask("label", {}, "")));
get("filter").addEventListener("submit", event => event.preventDefault());
get("filter-text").addEventListener("input", refresh);
get("filter-genre").addEventListener("change", refresh);
get("more").addEventListener("click", () => { count += PAGE; refresh(); });
hear("changed", refresh);
let genres = "";
hear("state", ({ collection, max_bytes, job, suffixes: known }) => {
  [maxBytes, suffixes] = [max_bytes, known];
  const found = collection.genres;
  if (genres !== (genres = String(found))) {
    const [all] = get("filter-genre").options, chosen = get("filter-genre").value;
    get("filter-genre").replaceChildren(all, ...found.map(value => element("option", { value }, value)));
    get("filter-genre").value = found.includes(chosen) ? chosen : "";
  }
  get("collection").hidden = !collection.num_waiting || Boolean(job);
  get("collection-text").textContent = `${collection.folder} has ${collection.num_waiting} files that are not labelled yet.`;
});

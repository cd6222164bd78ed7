// The collection in two dimensions: near points sound alike to the model.
import { announce, ask, element, get, hear, newestOnly, percent, similar } from "./common.js";

const HUES = ["#2f86c9", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c7ae6", "#7f8c2d", "#a0522d", "#4d9e9e", "#d04a6b", "#7a8794"];
const canvas = get("points"), MARGIN = 14;
let points = [], colours = new Map(), chosen = null, isStale = true;

// Positions are from -1 to 1.
const place = ([x, y]) => [MARGIN + (x + 1) / 2 * (canvas.width - 2 * MARGIN), MARGIN + (1 - y) / 2 * (canvas.height - 2 * MARGIN)];

function draw() {
  if (get("map").hidden || !points.length) return;
  canvas.width = canvas.clientWidth;
  const context = canvas.getContext("2d"), size = points.length > 2000 ? 2 : 4.5;
  for (const point of points) {
    context.fillStyle = colours.get(point.genre) ?? HUES[HUES.length - 1];
    context.beginPath();
    context.arc(...place(point.at), size, 0, 7);
    context.fill();
  }
  if (!chosen) return;
  context.strokeStyle = getComputedStyle(document.body).color;
  context.lineWidth = 2.5;
  context.beginPath();
  context.arc(...place(chosen.at), size + 4, 0, 7);
  context.stroke();
}

const details = newestOnly(async (signal, row) => {
  const found = await ask("similar", { id: row.id }, undefined, signal);
  similar(get("map-similar"), found.rows);
});

function choose(point) {
  if (!point) return;
  chosen = point;
  get("map-name").textContent = point.name;
  get("map-facts").textContent = `${point.genre} ${point.score === null ? "" : percent(point.score)}`;
  draw();
  details(point);
}

function nearest(x, y, isAllowed = () => true) {
  let found = null, least = Infinity;
  for (const point of points) {
    const [px, py] = place(point.at), dx = px - x, dy = py - y;
    const distance = dx * dx + dy * dy;
    if (distance < least && isAllowed(dx, dy, point)) [found, least] = [point, distance];
  }
  return found;
}

const refresh = newestOnly(async signal => {
  const found = await ask("map", {}, undefined, signal);
  isStale = false;
  points = found.points;
  const counts = Map.groupBy(points, point => point.genre);
  const order = [...counts].sort((a, b) => b[1].length - a[1].length).map(([genre]) => genre);
  colours = new Map(order.slice(0, HUES.length - 1).map((genre, i) => [genre, HUES[i]]));
  const shown = [...colours, ...order.length >= HUES.length ? [["others", HUES[HUES.length - 1]]] : []];
  get("legend").replaceChildren(...shown.map(([genre, colour]) => {
    const dot = element("i");
    dot.style.background = colour;
    return element("li", {}, dot, `${genre} ${counts.get(genre)?.length ?? ""}`);
  }));
  get("map-empty").hidden = points.length > 0;
  get("map-result").hidden = !points.length;
  chosen = points.find(point => point.id === chosen?.id) ?? null;
  draw();
});

canvas.addEventListener("click", event => choose(nearest(event.offsetX, event.offsetY)));
canvas.addEventListener("keydown", event => {
  if (event.key === "Enter" && chosen) return announce("play", chosen);
  const [ax, ay] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (!ax && !ay) return;
  event.preventDefault();
  const from = chosen ? place(chosen.at) : [canvas.width / 2, canvas.height / 2];
  // Within a quarter turn around the direction of the key.
  choose(nearest(...from, (dx, dy, point) => point !== chosen && dx * ax + dy * ay >= Math.abs(dx * ay + dy * ax)) ?? chosen);
});
get("map-find").addEventListener("input", event => {
  const text = event.target.value.toLowerCase();
  if (text) choose(points.find(point => point.name.toLowerCase().includes(text)));
});
addEventListener("resize", draw);
hear("changed", () => { isStale = true; if (!get("map").hidden) refresh(); });
hear("shown", name => name === "map" && (isStale ? refresh() : draw()));

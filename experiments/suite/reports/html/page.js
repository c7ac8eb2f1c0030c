"use strict";

// Texts only ever become text nodes, so that markup in a response stays text.
const { methods, prompts } = JSON.parse(document.getElementById("data").textContent);
const SCORES = ["proxy", "gold"];
const PAGE_SIZE = 20;
const [search, sort, order, count, list, page, previous, next] = [
  "search", "sort", "order", "count", "list", "page", "previous", "next",
].map((id) => document.getElementById(id));

const searched = prompts.map((entry) =>
  [entry.prompt, ...entry.responses.map((response) => response[0])].join("\n").toLowerCase(),
);
let current = 0;

// A difference is [score, method, other method]; every later method is compared with every earlier one.
const differences = [];
for (const score of ["gold", "proxy"]) {
  for (let later = methods.length - 1; later > 0; later--) {
    for (let earlier = later - 1; earlier >= 0; earlier--) differences.push([score, later, earlier]);
  }
}

const element = (tag, className, ...children) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
};
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const plain = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
const named = ([score, a, b]) => `${score}: ${methods[a]} minus ${methods[b]}`;
const difference = (entry, [score, a, b]) => {
  const column = 1 + SCORES.indexOf(score);
  return entry.responses[a][column] - entry.responses[b][column];
};

sort.append(new Option("Order of the run", ""), ...differences.map((each, place) => new Option(named(each), place)));

const words = () => search.value.toLowerCase().split(/\s+/).filter(Boolean);

// A text with the places marked where one of the words stands.
function marked(text, wanted) {
  const parts = document.createDocumentFragment();
  if (!wanted.length) {
    parts.append(text);
    return parts;
  }
  const pattern = wanted.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).sort((a, b) => b.length - a.length);
  text.split(new RegExp(`(${pattern.join("|")})`, "gi")).forEach((part, place) => {
    if (part) parts.append(place % 2 ? element("mark", "", part) : part);
  });
  return parts;
}

function shown() {
  const wanted = words();
  const found = prompts.map((_, place) => place).filter((place) => wanted.every((word) => searched[place].includes(word)));
  if (sort.value !== "") {
    const by = differences[sort.value];
    const values = new Map(found.map((place) => [place, difference(prompts[place], by)]));
    found.sort((a, b) => Number(order.value) * (values.get(a) - values.get(b)) || a - b);
  }
  return found;
}

function card(place, wanted) {
  const entry = prompts[place];
  const highest = Math.max(...entry.responses.map((response) => response[2]));
  const columns = entry.responses.map(([text, proxy, gold], method) => {
    const scores = element(
      "p", "scores",
      element("span", "", "proxy ", element("b", "", plain(proxy))), " ",
      element("span", "", "gold ", element("b", "", plain(gold))),
    );
    if (gold === highest && methods.length > 1) scores.append(" ", element("span", "highest", "highest gold"));
    return element(
      "div", "response",
      element("h4", `method method-${method}`, methods[method]),
      element("p", "text", marked(text, wanted)),
      scores,
    );
  });
  const heading = element("h3", "", element("span", "number", `${place + 1}`), " ", marked(entry.prompt, wanted));
  const made = element("li", "prompt", heading);
  if (sort.value !== "") {
    const by = differences[sort.value];
    made.append(element("p", "difference", `${named(by)}: `, element("b", "", signed(difference(entry, by)))));
  }
  made.append(element("div", `responses columns-${methods.length}`, ...columns));
  return made;
}

function draw() {
  const found = shown();
  const wanted = words();
  const pages = Math.max(1, Math.ceil(found.length / PAGE_SIZE));
  current = Math.min(current, pages - 1);
  const start = current * PAGE_SIZE;
  list.replaceChildren(...found.slice(start, start + PAGE_SIZE).map((place) => card(place, wanted)));
  const all = `${prompts.length} prompt${prompts.length === 1 ? "" : "s"}`;
  count.textContent = wanted.length ? `${found.length} of ${all}` : all;
  page.textContent = `Page ${current + 1} of ${pages}`;
  previous.disabled = current === 0;
  next.disabled = current === pages - 1;
  order.disabled = sort.value === "";
}

function restart() {
  current = 0;
  draw();
}

function turn(by) {
  current += by;
  draw();
  count.scrollIntoView();
}

document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
search.addEventListener("input", restart);
sort.addEventListener("change", restart);
order.addEventListener("change", restart);
previous.addEventListener("click", () => turn(-1));
next.addEventListener("click", () => turn(1));
draw();

"use strict";
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);

function show(edge, x, y) {
  const [head, ...facts] = edge.dataset.tip.split("\n");
  const title = document.createElement("b");
  title.textContent = head;
  const lines = facts.map((fact) => Object.assign(document.createElement("div"), { textContent: fact }));
  tip.replaceChildren(title, ...lines);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const clear = (place, size, room) => Math.max(8, Math.min(place, room - size - 8));
  const below = y + 18 + height < innerHeight ? y + 18 : y - height - 12;
  tip.style.left = `${clear(x - width / 2, width, innerWidth)}px`;
  tip.style.top = `${clear(below, height, innerHeight)}px`;
}

for (const edge of document.querySelectorAll(".edge")) {
  edge.addEventListener("pointermove", (event) => show(edge, event.clientX, event.clientY));
  edge.addEventListener("pointerleave", () => { tip.hidden = true; });
  edge.addEventListener("focus", () => {
    const box = edge.getBoundingClientRect();
    show(edge, box.x + box.width / 2, box.y + box.height / 2);
  });
  edge.addEventListener("blur", () => { tip.hidden = true; });
}
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

"use strict";
const root = document.documentElement;

const slider = document.getElementById("opacity");
slider.addEventListener("input", () => {
  root.style.setProperty("--map-opacity", slider.value / 100);
  slider.setAttribute("aria-valuetext", `${slider.value} percent`);
});

const dialog = document.getElementById("enlarged");
for (const button of document.querySelectorAll(".enlarge")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const figure = button.closest("figure").cloneNode(true);
    figure.querySelector(".enlarge").remove();
    dialog.querySelector(".content").replaceChildren(figure);
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});

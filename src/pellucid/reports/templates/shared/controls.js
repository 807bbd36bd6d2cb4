"use strict";
for (const slider of document.querySelectorAll("input[data-shows]")) {
  slider.addEventListener("input", () => {
    for (const other of document.querySelectorAll(`input[data-shows="${slider.dataset.shows}"]`)) other.value = slider.value;
    document.documentElement.style.setProperty(`--${slider.dataset.shows}`, slider.value / 100);
    slider.setAttribute("aria-valuetext", `${slider.value} percent`);
  });
}

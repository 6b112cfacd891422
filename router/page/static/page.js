// Keys, and what htmx must leave alone. The pages work without it.
"use strict";

const rows = () => Array.from(document.querySelectorAll("[data-row]"));
let chosen = -1;

function choose(step) {
  const all = rows();
  if (!all.length) return;
  const focused = all.indexOf(document.activeElement);
  chosen = Math.min(all.length - 1, Math.max(0, (focused >= 0 ? focused : chosen) + step));
  document.querySelectorAll(".chosen").forEach((one) => one.classList.remove("chosen"));
  (all[chosen].closest("tr, li") || all[chosen]).classList.add("chosen");
  all[chosen].focus();
  all[chosen].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.closest && event.target.closest("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape" && inField) return event.target.blur();
  if (inField) return;
  if (event.key === "/") {
    event.preventDefault();
    const box = document.getElementById("q");
    box.focus();
    box.select();
  } else if (event.key === "j") choose(1);
  else if (event.key === "k") choose(-1);
  else {
    const button = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (button) {
      event.preventDefault();
      button.click();
    }
  }
});

// A part that refreshes itself waits while it is used, or not looked at.
document.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.detail.elt;
  if (document.hidden || (part.id === "live" && part.contains(document.activeElement))) event.preventDefault();
});

// An order is given once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => document.querySelectorAll("[data-sent]").forEach((one) => delete one.dataset.sent));

// The word of what was done is for this view: a reload, or the address given on, does not repeat it.
const here = new URL(location.href);
if (here.searchParams.has("done")) {
  here.searchParams.delete("done");
  history.replaceState(null, "", here);
}

// On a narrow screen the row of pages scrolls: it shows where you are.
const current = document.querySelector("nav [aria-current]");
if (current) current.closest("nav").scrollLeft = current.offsetLeft - current.closest("nav").offsetLeft - 40;

// A file is read into its field; without scripts the field is there alone.
document.querySelectorAll("input[data-into]").forEach((one) => {
  one.closest("[hidden]").hidden = false;
  one.addEventListener("change", async () => {
    if (one.files.length) document.getElementById(one.dataset.into).value = await one.files[0].text();
  });
});

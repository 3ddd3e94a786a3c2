"use strict";

// The style sheet shows the filter and the buttons only if scripts run.
document.documentElement.classList.add("has-script");

/** Normalizes a text for comparison: lower case, and one Unicode form for each character. */
function plain(text) {
  return text.normalize("NFKC").toLowerCase();
}

/** Returns, for each normalized text, whether it contains every word of the query, in any order. */
function matches(texts, query) {
  const words = plain(query).split(/\s+/);
  return texts.map((text) => words.every((word) => text.includes(word)));
}

/** Returns the text for the number of visible images. */
function counted(visible, all) {
  return visible === all ? `${all} image${all === 1 ? "" : "s"}` : `${visible} of ${all}`;
}

/** Copies the text to the clipboard; returns whether that succeeded. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Some browsers deny pages from files the clipboard API, but still copy a selection.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  const filter = document.getElementById("filter");
  const output = document.querySelector(".filter output");
  const noMatch = document.querySelector(".nothing");
  const list = document.querySelector("ul");
  const cards = Array.from(list.children);
  // The last card of a killed run can be incomplete.
  const texts = cards.map((card) => plain(card.querySelector(".info")?.textContent ?? ""));

  function update() {
    const found = matches(texts, filter.value);
    cards.forEach((card, index) => (card.hidden = !found[index]));
    const visible = found.filter(Boolean).length;
    output.value = counted(visible, cards.length);
    noMatch.hidden = visible > 0 || cards.length === 0;
  }

  filter.addEventListener("input", update);
  update();

  list.addEventListener("click", async ({ target }) => {
    const button = target.closest("button");
    if (button === null) return;
    const done = await copy(button.parentElement.querySelector("pre").textContent);
    button.focus();
    button.textContent = done ? "Copied" : "Copy failed";
    setTimeout(() => (button.textContent = "Copy command"), 2000);
  });
});

"use strict";

// What needs a script is shown where one runs.
document.documentElement.classList.add("scripted");

/** Words as they are compared: without capitals, and each sign in one form only. */
function plain(words) {
  return words.normalize("NFKC").toLowerCase();
}

/** Which of these plain texts hold every word of a query, in any order. */
function matches(texts, query) {
  const words = plain(query).split(/\s+/);
  return texts.map((text) => words.every((word) => text.includes(word)));
}

/** How many are shown, in words. */
function counted(shown, all) {
  return shown === all ? `${all} image${all === 1 ? "" : "s"}` : `${shown} of ${all}`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // A browser that gives files no clipboard still copies what is selected.
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
  const nothing = document.querySelector(".nothing");
  const list = document.querySelector("ul");
  const cards = Array.from(list.children);
  // The last card of a run that was killed may lack any of its parts.
  const texts = cards.map((card) => plain(card.querySelector(".told")?.textContent ?? ""));

  function show() {
    const found = matches(texts, filter.value);
    cards.forEach((card, index) => (card.hidden = !found[index]));
    const shown = found.filter(Boolean).length;
    output.value = counted(shown, cards.length);
    nothing.hidden = shown > 0 || cards.length === 0;
  }

  filter.addEventListener("input", show);
  show();

  list.addEventListener("click", async ({ target }) => {
    const button = target.closest("button");
    if (button === null) return;
    const done = await copy(button.parentElement.querySelector("pre").textContent);
    button.focus();
    button.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => (button.textContent = "Copy command"), 2000);
  });
});

"use strict";
for (const section of document.querySelectorAll("[data-samples]")) {
  const list = section.querySelector(".samples");
  const cards = [...list.children];
  const [order, show, words] = section.querySelectorAll("select, input");
  const count = section.querySelector("output");
  const value = (card, name) => Number(card.dataset[name]);
  const orders = {
    changed: (a, b) => Math.abs(value(b, "change")) - Math.abs(value(a, "change")),
    worst: (a, b) => value(a, "after") - value(b, "after"),
    improved: (a, b) => value(b, "change") - value(a, "change"),
    worsened: (a, b) => value(a, "change") - value(b, "change"),
    asked: () => 0,
  };
  const filters = {
    all: () => true,
    wrong: (card) => value(card, "after") < 1,
    won: (card) => value(card, "change") > 0,
    lost: (card) => value(card, "change") < 0,
    differ: (card) => card.dataset.differ === "1",
  };
  const update = () => {
    const wanted = words.value.toLowerCase();
    const sorted = [...cards].sort(
      (a, b) => orders[order.value](a, b) || value(a, "place") - value(b, "place"),
    );
    let shown = 0;
    for (const card of sorted) {
      card.hidden =
        !filters[show.value](card) || !card.textContent.toLowerCase().includes(wanted);
      shown += card.hidden ? 0 : 1;
      list.append(card);
    }
    count.textContent = `${shown} of ${cards.length}`;
  };
  for (const control of [order, show, words]) control.addEventListener("input", update);
  update();
}

"use strict";
const list = document.querySelector("main");
const rows = [...list.children];
const order = document.querySelector("#order");
order.addEventListener("input", () => {
  const sign = { longest: -1, shortest: 1, given: 0 }[order.value];
  const value = (row, name) => Number(row.dataset[name]);
  const sorted = [...rows].sort(
    (a, b) =>
      sign * (value(a, "tokens") - value(b, "tokens")) || value(a, "place") - value(b, "place"),
  );
  list.append(...sorted);
});

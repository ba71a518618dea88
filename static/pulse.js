// Makes a number that has changed stand out for a moment, for people who do not mind
// motion.
(() => {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const number = () => document.querySelector(".figure :is(strong, mark)");
  let last = number()?.textContent;

  // The client's events do not bubble.
  document.addEventListener("lvt:updated", () => {
    const now = number()?.textContent;
    if (now !== last && !still.matches) number()?.animate({ scale: ["1.2", "1"] }, 300);
    last = now;
  }, true);
})();

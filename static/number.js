// Makes a number that has changed stand out for a moment, for people who do not mind
// motion, and has it announced to people who do not see it. It may change many times a
// second; it is announced once a second, and not when it is what was announced before.
(() => {
  const pause = 1000; // milliseconds between two announcements
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const line = document.getElementById("announced");
  const figure = () => document.querySelector(".figure");
  const text = () => figure()?.textContent.trim();
  let last = text(), announced = last, waiting;

  // Of pages in frames, which all change, the one that the person is in speaks.
  const here = () => window === window.top || document.hasFocus();

  function announce() {
    waiting = undefined;
    line.textContent = ""; // nobody should come across an old number
    if (text() === announced) return;
    announced = text();
    if (here()) line.textContent = announced;
    waiting = setTimeout(announce, pause);
  }

  // The client's events do not bubble.
  document.addEventListener("lvt:updated", () => {
    const now = text();
    if (now === last) return;
    last = now;
    if (!still.matches) figure().querySelector("strong, mark").animate({ scale: ["1.2", "1"] }, 300);
    if (!waiting) announce();
  }, true);
})();

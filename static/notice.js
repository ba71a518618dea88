// Tells the person, at the foot of the page, that something they did was too fast and
// did not count, or that it may not have counted. The server says the first by the
// name of the action that it answers.
(() => {
  const shownFor = 4000; // milliseconds
  const line = document.getElementById("notice");
  let timer;

  const say = (text) => {
    if (line.textContent !== text) line.textContent = text; // read out once, not for every click
    clearTimeout(timer);
    timer = setTimeout(() => { line.textContent = ""; }, shownFor);
  };

  // The client's events do not bubble.
  document.addEventListener("lvt:updated", (event) => {
    if (event.detail.action === "slow-down") say("Slow down: that was too fast, and did not count.");
  }, true);
  document.addEventListener("unanswered", () => say("What you did last may not have counted."));
})();

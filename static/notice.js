// Tells the person, at the foot of the page, that something they did did not count, or
// may not have counted. The server answers an action that came too fast under the name
// "slow-down"; everything else comes from live.js.
(() => {
  const shownFor = 4000; // milliseconds
  const line = document.getElementById("notice");
  const notes = {
    "too fast": "Slow down: that was too fast, and did not count.",
    "refused": "What you did last did not count: the server has refused it.",
    "not sent": "What you did last was not sent, because the page has changed meanwhile.",
    "unanswered": "What you did last may not have counted.",
  };
  let timer, said;

  const say = (note) => {
    if (said !== note) line.textContent = notes[said = note]; // read out once, not for every click
    clearTimeout(timer);
    timer = setTimeout(() => { line.textContent = said = ""; }, shownFor);
  };

  // The client's events do not bubble.
  document.addEventListener("lvt:updated", (event) => {
    if (event.detail.action === "slow-down") say("too fast");
  }, true);
  document.addEventListener("uncounted", (event) => say(event.detail));
  document.addEventListener("unanswered", () => say("unanswered"));
})();

// Tells the person, at the foot of the page, that something they did did not count, or
// may not have counted. The server answers an action that came too fast under the name
// "slow-down"; everything else comes from live.js.
(() => {
  const shownFor = 4000; // milliseconds
  const line = document.getElementById("notice");
  const notes = {
    "too fast": "Too fast: your last action was not counted.",
    "refused": "The server refused your last action. Nothing changed.",
    "not sent": "Your last action was not sent: the page changed before it could be.",
    "unanswered": "Your last action may not have been counted.",
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

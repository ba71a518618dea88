// Tells the person, at the foot of the page, that something they did did not count, or
// may not have counted. The server answers an action that came too fast under the name
// "slow-down"; everything else comes from live.js.
(() => {
  const shownFor = 4000; // milliseconds
  const line = document.getElementById("notice");
  const notes = {
    "too fast": "Too fast: your last action was not counted.",
    "refused": "Refused: your last action was not counted.",
    "not sent": "Not sent: the page changed before your last action could go out.",
    "unanswered": "No answer: your last action may not have been counted.",
  };
  const fits = (note) => window === window.top ? note : note.split(":")[0]; // in a frame
  let timer, said;

  const say = (note) => {
    if (said !== note) line.textContent = fits(notes[said = note]); // read out once, not for every click
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

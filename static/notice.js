// Tells the person, at the foot of the page, that a click did not count because
// it came too fast. The server says so by the name of the action it answers.
(() => {
  const shownFor = 4000; // milliseconds
  let timer;

  const say = (text) => {
    const notice = document.querySelector(".notice");
    if (notice.textContent !== text) notice.textContent = text; // read out once, not for every click
  };

  // The client's events do not bubble.
  document.addEventListener("lvt:updated", (event) => {
    if (event.detail.action !== "slow-down") return;
    say("Slow down: that was too fast, and did not count.");
    clearTimeout(timer);
    timer = setTimeout(say, shownFor, "");
  }, true);
})();

// Lets a tab that has joined join again.
//
// The tab remembers its name and joins under it whenever its page or its socket is new:
// after a reload, a break in the network, a time in the background, or a restart of the
// server. Leave makes it forget the name. The name is kept in sessionStorage, for this
// tab alone, and for this frame alone if it is one of several. Where the browser blocks
// site data it is kept as long as the page.
//
// This script runs before the page is drawn, so that a tab that will join again does
// not show the form first.
(() => {
  const key = window === window.top ? "presence-name" : `presence-name in ${window.name}`;
  let leaving = false; // Leave was pressed and is not answered yet
  let sent;            // the name that was sent last; the one that is shown may be translated
  let inPage = null;   // the name, for a browser that blocks site data

  const remembered = () => {
    try {
      return sessionStorage.getItem(key);
    } catch {
      return inPage;
    }
  };
  const remember = (name) => {
    inPage = name;
    try {
      if (name === null) sessionStorage.removeItem(key);
      else sessionStorage.setItem(key, name);
    } catch {
      // The browser blocks site data, or has no room for it.
    }
    mark();
  };
  const mark = () => document.documentElement.toggleAttribute("data-joins-again", remembered() !== null);
  mark();

  document.addEventListener("submit", (event) => {
    if (event.submitter?.name === "join") sent = event.target.elements.username.value;
    if (event.submitter?.name !== "leave") return;
    leaving = true;
    sent = undefined;
    remember(null);
  }, true);

  const shown = () => document.querySelector("article mark"); // the count, on the page of presence

  let up = false;
  function joinAgain() {
    const username = remembered();
    if (up && !document.prerendering && username !== null && shown()) {
      window.liveTemplateClient.send({ action: "join", data: { username } });
    }
  }
  document.addEventListener("live", (event) => {
    up = event.detail === "up";
    joinAgain();
  });
  document.addEventListener("prerenderingchange", joinAgain); // the person looks at the page now

  // The client's events do not bubble.
  document.addEventListener("lvt:updated", () => {
    if (!shown()) return;
    const count = parseInt(shown().textContent);
    if (count >= 0) document.title = document.title.replace(/^(\(\d+\) )?/, `(${count}) `);

    if (!document.querySelector("article form strong")) {
      leaving = false;
      if (document.querySelector("[aria-invalid]")) remember(null); // the server no longer takes the name
    } else if (!leaving && sent !== undefined) {
      remember(sent);
    }
  }, true);
})();

// Lets a tab that has joined join again.
//
// The tab remembers its name, and joins under it whenever its page or its socket is
// new: after a reload, a break in the network, a time in the background, a restart
// of the server. Leave forgets the name. The name is kept in sessionStorage, for
// this tab alone.
//
// This script runs before the page is drawn, so that a tab that will join again
// does not show the form first.
(() => {
  const key = "presence-name";
  let leaving = false; // Leave was pressed and is not answered yet

  const remember = (name) => {
    if (name === null) sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, name);
    mark();
  };
  const mark = () => document.documentElement.toggleAttribute("data-joins-again", sessionStorage.getItem(key) !== null);
  mark();

  document.addEventListener("submit", (event) => {
    if (event.submitter?.name !== "leave") return;
    leaving = true;
    remember(null);
  }, true);

  document.addEventListener("live", (event) => {
    const username = sessionStorage.getItem(key);
    if (event.detail === "up" && username !== null && document.querySelector("[data-count]")) {
      window.liveTemplateClient.send({ action: "join", data: { username } });
    }
  });

  // The client's events do not bubble.
  document.addEventListener("lvt:updated", () => {
    const page = document.querySelector("[data-count]");
    if (!page) return;
    document.title = document.title.replace(/^(\(\d+\) )?/, `(${page.dataset.count}) `);

    const joined = page.querySelector("form strong");
    if (!joined) {
      leaving = false;
      if (page.querySelector("[aria-invalid]")) remember(null); // the server no longer takes the name
    } else if (!leaving) {
      remember(joined.textContent.trim());
    }
  }, true);
})();

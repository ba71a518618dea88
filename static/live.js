// Keeps the socket of a page: as long as the page is there, and no longer.
//
// The browser client leaves a lost socket alone until its next heartbeat, up to
// 20 seconds later, and gives up for good if the server is away just then.
(() => {
  const firstWait = 500, longestWait = 5000; // milliseconds
  const ownReconnect = 15000; // the client's own attempts have ended by then
  let live = false, wait = firstWait, timer;

  const retryIn = (milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(reconnect, milliseconds);
  };

  async function reconnect() {
    if (live) return;
    try {
      // Ask first: in a network that swallows everything, connect() never ends.
      const answer = await fetch("/healthz", { cache: "no-store", signal: AbortSignal.timeout(3000) });
      if (answer.ok && !live) {
        window.liveTemplateClient.disconnect();
        await window.liveTemplateClient.connect();
      }
    } catch {
      // The server is away.
    }
    if (live) return;
    retryIn(wait * (0.5 + Math.random()));
    wait = Math.min(wait * 2, longestWait);
  }

  // These events do not bubble.
  document.addEventListener("lvt:connected", () => {
    live = true;
    wait = firstWait;
  }, true);
  document.addEventListener("lvt:disconnected", () => {
    live = false;
    // A socket that is still open is being closed by the client, to open another.
    retryIn(window.liveTemplateClient.isReady() ? ownReconnect : firstWait * Math.random());
  }, true);

  // A page that is left may be kept whole for the Back button, and Chromium then
  // keeps its socket as well: to the server the visitor would still be there.
  addEventListener("pagehide", () => {
    window.liveTemplateClient?.disconnect();
    clearTimeout(timer);
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted && window.liveTemplateClient) reconnect();
  });
})();

// A page that is left may be kept whole for the Back button, and Chromium then
// keeps its socket as well: to the server the visitor would still be there. So
// a page that is left closes its socket, and one that comes back opens it anew.
addEventListener("pagehide", () => window.liveTemplateClient?.disconnect());
addEventListener("pageshow", (event) => {
  if (event.persisted) window.liveTemplateClient?.connect();
});

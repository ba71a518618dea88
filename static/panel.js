// Loads the script of the panel "On the wire" when the panel is first opened. Until then
// it only keeps the open sockets of the page, numbered in the order in which they were
// made, in window.openSockets. It must load before the client, which makes them.
(() => {
  const panel = document.getElementById("wire");
  if (!panel) return;
  const sockets = window.openSockets = new Set();
  let made = 0;
  let loading = false;

  document.addEventListener("socket", ({ detail: socket }) => {
    socket.number = ++made;
    sockets.add(socket);
    socket.addEventListener("open", () => { socket.openedAt = new Date(); });
    socket.addEventListener("close", () => sockets.delete(socket));
  });

  function load() {
    if (loading || !panel.open) return;
    loading = true;
    const script = document.createElement("script");
    script.src = panel.dataset.src;
    script.onerror = () => { loading = false; }; // the server is away: the next "live" tries again
    document.head.append(script);
  }
  panel.addEventListener("toggle", load);
  document.addEventListener("live", load);
  load(); // it may be open already
})();

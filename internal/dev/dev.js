// Make dev adds this script to each page. It says what happens to the server, and makes the
// page new when there is another build.
(() => {
  if (window !== window.top) return; // the page around a frame does it
  const Socket = WebSocket; // before live.js replaces it
  const build = new URL(document.currentScript.src).search.slice(1);
  const line = document.createElement("p");
  line.setAttribute("role", "status");

  function follow() {
    const socket = new Socket(location.origin.replace("http", "ws") + "/dev");
    socket.onmessage = ({ data }) => {
      const now = JSON.parse(data);
      line.textContent = now.Says;
      if (now.Build !== build) renew();
    };
    socket.onclose = () => setTimeout(follow, 500);
  }

  // A live page reconnects, and learns whether it is outdated. Then renew.js makes it new, or
  // offers a button that does, and keeps what was typed.
  function renew() {
    if (document.querySelector("[data-lvt-id]")) dispatchEvent(new Event("online"));
    else location.reload();
  }

  addEventListener("DOMContentLoaded", () => {
    (document.querySelector(".notices") ?? document.body).append(line);
    const offer = document.getElementById("renew");
    if (offer) new MutationObserver(() => offer.querySelector("button")?.click()).observe(offer, { childList: true });
    follow();
  });
})();

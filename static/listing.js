// Gives each listing a button that copies its code and says so.
(() => {
  const shownFor = 2000; // milliseconds

  // Browsers have a clipboard only where the page came over HTTPS or from this machine.
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const field = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(field);
      field.select();
      const copied = document.execCommand("copy");
      field.remove();
      return copied;
    }
  }

  for (const listing of document.querySelectorAll(".listing")) {
    const caption = listing.querySelector("figcaption");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Copy" });
    button.setAttribute("aria-label", `Copy ${caption.textContent}`);
    const said = document.createElement("span");
    said.setAttribute("role", "status");
    caption.append(said, button);

    button.addEventListener("click", async () => {
      said.textContent = await copy(listing.querySelector("code").textContent) ? "Copied" : "Not copied: select the text";
      button.focus();
      setTimeout(() => { said.textContent = ""; }, shownFor);
    });
  }
})();

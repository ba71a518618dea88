// Gives each listing two buttons: one copies the code that it shows, the other the whole file.
(() => {
  const saidFor = 2000; // milliseconds

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
    const name = caption.textContent;
    const buttons = document.createElement("span");
    const heard = document.createElement("span");
    heard.setAttribute("role", "status");
    caption.append(heard, buttons);

    const add = (label, what, text, otherwise) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: label });
      button.setAttribute("aria-label", `${label} ${what}`);
      buttons.append(button);
      let timer;
      button.addEventListener("click", async () => {
        let said;
        try {
          said = await copy(await text()) ? "Copied" : `Not copied: ${otherwise}`;
        } catch {
          said = "Not copied: no answer";
        }
        button.focus(); // copying may have taken it
        button.textContent = heard.textContent = said;
        clearTimeout(timer);
        timer = setTimeout(() => {
          button.textContent = label;
          heard.textContent = "";
        }, saidFor);
      });
    };
    add("Copy", name, () => listing.querySelector("code").textContent, "select the text");

    // Safari copies only what is there at the press, so the file is fetched when the pointer or
    // the focus comes near.
    let file;
    const download = async () => {
      const answer = await fetch(caption.dataset.file);
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      return file = await answer.text();
    };
    for (const near of ["pointerenter", "focusin"]) {
      listing.addEventListener(near, () => download().catch(() => {}), { once: true });
    }
    add("Copy file", name.split(":")[0], async () => file ?? await download(), "press again");
  }
})();

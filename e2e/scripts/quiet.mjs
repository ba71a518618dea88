// A reporter for node --test that prints what is red, and one line at the end.
export default async function* quiet(events) {
  let green = 0, red = 0;
  for await (const { type, data } of events) {
    if (type === "test:pass" && data.skip === undefined) green++;
    if (type !== "test:fail") continue;
    red++;
    const { error } = data.details;
    yield `${data.name}\n${(error.cause?.message ?? error.message).replace(/^/gm, "  ")}\n  ${data.file}\n\n`;
  }
  yield `scripts: ${green} cases green, ${red} red\n`;
}

// Batches: many image files or a zip file, read and drafted by the server in the background.
import { call, session } from "./session.js";

const TRIES = 40;
const WAIT_MS = 1500;
let sending = 0; // files that would be lost with the page

addEventListener("beforeunload", (event) => sending > 0 && event.preventDefault());

/** Repeat a request while the server cannot be reached, is busy or has no room. */
async function patiently(ask) {
  sending += 1;
  try {
    for (let number = 1; ; number += 1) {
      try {
        return await ask();
      } catch (error) {
        if (!error.passing || number === TRIES) throw error;
        session.say(`Not sent yet: ${error.message}. Trying again …`, "busy");
        await new Promise((done) => setTimeout(done, WAIT_MS));
      }
    }
  } finally {
    sending -= 1;
  }
}

/** Leave out what no image can be: hidden files, folders' indexes, empty files, and files that cannot be read. */
async function candidates(files) {
  const found = [];
  for (const file of files) {
    if (file.name.startsWith(".") || file.name.toUpperCase() === "DICOMDIR" || !file.size) continue;
    if (await file.slice(0, 1).arrayBuffer().catch(() => null)) found.push(file);
  }
  return found;
}

function tell() {
  session.dispatchEvent(new CustomEvent("batch"));
  session.dispatchEvent(new CustomEvent("worklist"));
}

/** Send a zip file. */
export async function sendZip(file) {
  session.say("Sending the archive …", "busy");
  await patiently(() => call("POST", "/api/batches", { body: file, headers: { "content-type": "application/zip" } }));
  session.say("");
  tell();
}

/**
 * Send image files as one batch; zip files among them become batches of their own. A file that the server refuses is
 * listed with the batch and does not stop the others.
 */
export async function sendFiles(files) {
  const named = await candidates([...files]);
  const zips = named.filter((file) => /\.zip$/i.test(file.name));
  const single = named.filter((file) => !zips.includes(file));
  if (!named.length) {
    session.say("There is no image file among these.", "error");
    return;
  }
  for (const file of zips) await sendZip(file);
  if (!single.length) return;
  const { batch } = await patiently(() => call("POST", "/api/batches", { json: { total: single.length } }));
  tell();
  for (const [index, file] of single.entries()) {
    session.say(`Sending ${index + 1} of ${single.length} files …`, "busy");
    await patiently(() => call("POST", `/api/studies?batch=${batch}&number=${index + 1}`, { body: file, headers: session.nameOf(file) }));
  }
  session.say(files.length === named.length ? "" : `${single.length} files have been sent; ${files.length - named.length} that are no images or cannot be read were left out.`);
  tell();
}

// Progress of a draft that is being written, as the server sends it.

/**
 * Follow a study's draft.
 * @param part called with {state, position, text, …} for each change
 * @param ended called once, when it is written, stopped or failed
 * @returns a function that stops following
 */
export function followDraft(study, { part, ended }) {
  let over = false;
  let stream = null;
  const stop = () => {
    over = true;
    stream.close();
  };
  const begin = () => {
    stream = new EventSource(`/api/studies/${study}/draft`);
    stream.onmessage = (event) => {
      if (over) return;
      const now = JSON.parse(event.data);
      if (now && ["queued", "running"].includes(now.state)) part(now);
      else {
        stop();
        ended();
      }
    };
    // the browser reconnects by itself, and the server continues writing the draft
    stream.onerror = () => {
      if (stream.readyState === EventSource.CLOSED && !over) setTimeout(() => over || begin(), 2000);
    };
  };
  begin();
  return stop;
}

// Lighthouse's accessibility score of the page that a browser shows: node lighthouse.mjs PORT, the port of its
// developer tools. Prints JSON: version, score (0 to 100) and the audits that are not passed, with the elements.
import { snapshot } from "lighthouse";
import puppeteer from "puppeteer-core";

const browser = await puppeteer.connect({ browserURL: `http://127.0.0.1:${process.argv[2]}`, defaultViewport: null });
const page = (await browser.pages()).find((one) => one.url().startsWith("http://127.0.0.1"));
const { lhr } = await snapshot(page, {
  flags: { onlyCategories: ["accessibility"], formFactor: "desktop", screenEmulation: { disabled: true }, maxWaitForFcp: 1000 },
});
const failed = Object.values(lhr.audits).filter((one) => one.score !== null && one.score < 1);
console.log(JSON.stringify({
  version: lhr.lighthouseVersion,
  score: Math.round(lhr.categories.accessibility.score * 100),
  failed: failed.map((one) => [one.id, (one.details?.items ?? []).map((item) => item.node?.selector)]),
}));
await browser.disconnect();

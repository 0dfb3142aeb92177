// FHIR R4 validation by the package "fhir": node fhir.mjs FILE..., JSON files of one bundle each.
// Prints JSON: for each file its messages, by severity.
import fs from "node:fs";
import fhir from "fhir";

const validator = new fhir.Fhir();
const found = process.argv.slice(2).map((path) => {
  const { valid, messages } = validator.validate(JSON.parse(fs.readFileSync(path, "utf8")), { errorOnUnexpected: true });
  const bySeverity = { valid, fatal: [], error: [], warning: [], info: [] };
  for (const { severity, location, message } of messages) bySeverity[severity].push(`${location}: ${message}`);
  return bySeverity;
});
console.log(JSON.stringify(found));

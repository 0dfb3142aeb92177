// Annotations that viewers show of structured reports (TID 1500): node viewers.mjs FILE...
// Prints JSON: for each file the annotations by the adapters of Cornerstone3D and by those of dcmjs, by tool, with
// UID, image, points in pixels of the image (0, 0 is the outer corner of its first pixel) and length with unit; and all
// numbers with their coordinates, from dcmjs' reading of the content tree.
import fs from "node:fs";
import dcmjs from "dcmjs";
import { metaData } from "@cornerstonejs/core";
import { adaptersSR } from "@cornerstonejs/adapters";

const plane = {
  rowCosines: [1, 0, 0], columnCosines: [0, 1, 0], imagePositionPatient: [0, 0, 0],
  rowPixelSpacing: 1, columnPixelSpacing: 1, frameOfReferenceUID: "1.2",
};
metaData.addProvider((kind) => (kind === "imagePlaneModule" ? plane : undefined));
const images = new Proxy({}, { get: (_, key) => String(key) }); // an image's id is its UID and frame
const list = (value) => (value === undefined ? [] : Array.isArray(value) ? value : [value]);

function opened(path) {
  const file = fs.readFileSync(path);
  const parsed = dcmjs.data.DicomMessage.readFile(file.buffer.slice(file.byteOffset, file.byteOffset + file.length));
  return dcmjs.data.DicomMetaDictionary.naturalizeDataset(parsed.dict);
}

function annotations(byTool, shift) {
  const found = {};
  for (const [tool, all] of Object.entries(byTool)) {
    if (all.length) found[tool] = all.map(({ TrackingUniqueIdentifier, sopInstanceUid, annotation }) => {
      const { handles, cachedStats } = annotation.data;
      const [stats] = Object.values(cachedStats ?? {});
      const points = handles.points.map(([x, y]) => [x + shift, y + shift]);
      return { uid: TrackingUniqueIdentifier, image: sopInstanceUid, points, length: stats?.length, unit: stats?.unit };
    });
  }
  return found;
}

function numbers(item, above = []) {
  const own = item.ValueType === "NUM" ? [{
    name: list(item.ConceptNameCodeSequence)[0].CodeMeaning,
    value: Number(list(item.MeasuredValueSequence)[0].NumericValue),
    unit: list(list(item.MeasuredValueSequence)[0].MeasurementUnitsCodeSequence)[0].CodeValue,
    lines: list(item.ContentSequence).filter((one) => one.ValueType === "SCOORD").map((one) => ({
      points: one.GraphicData,
      image: list(list(one.ContentSequence)[0].ReferencedSOPSequence)[0].ReferencedSOPInstanceUID,
    })),
  }] : [];
  return [...above, ...own, ...list(item.ContentSequence).flatMap((one) => numbers(one))];
}

const found = process.argv.slice(2).map((path) => {
  const dataset = opened(path);
  const { MeasurementReport } = adaptersSR.Cornerstone3D;
  const old = dcmjs.adapters.Cornerstone3D.MeasurementReport;
  return {
    // the centre of the first pixel is the origin of its plane
    cornerstone: annotations(MeasurementReport.generateToolState(dataset, images, metaData), 0.5),
    dcmjs: annotations(old.generateToolState(dataset, images, (_, point) => point, metaData), 0),
    numbers: numbers(dataset),
  };
});
console.log(JSON.stringify(found));
